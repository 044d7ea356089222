// The rule of Microsoft's tutorial for custom allocation (toasters and heat pumps, by the end of the registration ID),
// in Node without Usher.
import { createServer } from 'node:http'
import { text } from 'node:stream/consumers'

const kinds = {
  '-contoso-tstrsd-007': ['-toasters-', { state: 'ready', darknessSetting: 'medium' }],
  '-contoso-hpsd-088': ['-heatpumps-', { state: 'on', temperatureSetting: '65' }]
}
createServer(async (request, response) => {
  const { deviceRuntimeContext: { registrationId }, linkedHubs } = JSON.parse(await text(request))
  const [name, desired] = Object.entries(kinds).find(([end]) => registrationId.endsWith(end))?.[1] ?? []
  const iotHubHostName = linkedHubs.find((hub) => hub.includes(name))
  response.writeHead(iotHubHostName ? 200 : 400)
  response.end(JSON.stringify({ iotHubHostName, initialTwin: { properties: { desired } } }))
}).listen(Number(process.argv[2] ?? 0), '127.0.0.1', function () {
  console.log(`http://127.0.0.1:${this.address().port}/`)
})
