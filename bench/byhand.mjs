// The webhook of the tutorial's appliances as one writes it without Usher: what rules/breakroom decides, without
// validation of the request, records or metrics.
import { createHash } from "node:crypto";
import { createServer } from "node:http";

const kinds = [
  { suffix: "-contoso-tstrsd-007", type: "toaster", hubs: /^[^.]*-toasters-hub/i, desired: { state: "ready", darknessSetting: "medium" } },
  { suffix: "-contoso-hpsd-088", type: "heatpump", hubs: /^[^.]*-heatpumps-hub/i, desired: { state: "on", temperatureSetting: "65" } },
];

function allocate({ enrollmentGroup, deviceRuntimeContext, linkedHubs }) {
  const id = deviceRuntimeContext.registrationId.toLowerCase();
  const kind = kinds.find(({ suffix }) => id.endsWith(suffix));
  if (!kind) return [403, { message: "neither a toaster nor a heat pump" }];
  const hubs = linkedHubs.filter((hub) => kind.hubs.test(hub));
  if (hubs.length === 0) return [503, { message: `no hub is linked for the kind ${kind.type}` }];
  const twin = enrollmentGroup.initialTwin ?? {};
  return [200, {
    iotHubHostName: hubs.length === 1 ? hubs[0] : hubs[createHash("sha256").update(id).digest().readUInt32BE() % hubs.length],
    initialTwin: {
      ...twin,
      tags: { ...twin.tags, deviceType: kind.type },
      properties: { ...twin.properties, desired: { ...twin.properties?.desired, ...kind.desired } },
    },
    payload: { deviceType: kind.type },
  }];
}

const server = createServer((request, response) => {
  let body = "";
  request.setEncoding("utf8");
  request.on("data", (chunk) => { body += chunk; });
  request.on("end", () => {
    let status, answer;
    try {
      [status, answer] = allocate(JSON.parse(body));
    } catch (error) {
      [status, answer] = [400, { message: error.message }];
    }
    const text = JSON.stringify(answer);
    response.writeHead(status, { "Content-Type": "application/json", "Content-Length": Buffer.byteLength(text) });
    response.end(text);
  });
});

const [host, port] = process.env.USHER_LISTEN.split(":");
server.listen(Number(port), host);
