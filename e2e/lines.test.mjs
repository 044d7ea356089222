// The lines that `usher dps` prints for each SDK, run as they are printed where that needs no SDK that is not here, and
// changes nothing outside of a folder of this test.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { derive, need, runs, stack, token } from './stack.mjs'

const run = promisify(execFile)
const group = 'contoso-custom-allocated-devices'
const env = { ...process.env, NODE_OPTIONS: '', NODE_EXTRA_CA_CERTS: '' }

/** The lines below the name of an SDK, without their indentation. */
function linesOf(sdk) {
  const from = stack.printed.indexOf(`  ${sdk}`) + 1
  assert.ok(from > 0, `nothing is printed for ${sdk}`)
  const length = stack.printed.slice(from).findIndex((line) => !line.startsWith('    '))
  return stack.printed.slice(from, from + length).map((line) => line.trim())
}

/** The only line that begins with a text. */
function lineOf(sdk, beginning) {
  const found = linesOf(sdk).filter((line) => line.startsWith(beginning))
  assert.equal(found.length, 1, `lines of ${sdk} that begin with ${beginning}:\n${found.join('\n')}`)
  return found[0]
}

/** Runs lines as a shell does, in a folder. */
const shell = async (folder, ...lines) => (await run('sh', ['-ec', lines.join('\n')], { cwd: folder, env })).stdout

/** A folder that is removed; for Node's programs, below node_modules, where the packages are found and git ignores it. */
function folderFor(t, place = mkdtempSync(join(tmpdir(), 'usher-e2e-lines-'))) {
  mkdirSync(place, { recursive: true })
  t.after(() => rmSync(place, { recursive: true, force: true }))
  return place
}
const below = (name) => join(fileURLToPath(new URL('.', import.meta.url)), 'node_modules', name)

const deviceProgram = (id, transport, lines, work) => `
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device')
const { ${transport} } = require('azure-iot-provisioning-device-${transport.toLowerCase()}')
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key')
const { Client } = require('azure-iot-device')
const device = require('azure-iot-device-mqtt')
const key = '${derive(stack.keys[group], id)}'
${lines[0]}
ProvisioningDeviceClient.create(provisioningHost, '${stack.idScope}', new ${transport}(), new SymmetricKeySecurityClient('${id}', key)).register(async (err, result) => {
  if (err) throw err
  ${lines[1] ?? ''}
  ${work}
  console.log('done')
})
`

test('Node: the lines for DPS and the hub', async (t) => {
  const folder = folderFor(t, below('.lines'))
  const hub = lineOf('Node', 'const hub = ').replace('DeviceId=...', 'DeviceId=${result.deviceId};SharedAccessKey=${key}')
  writeFileSync(join(folder, 'device.js'), deviceProgram('lines-contoso-tstrsd-007', 'Mqtt', [lineOf('Node', 'const provisioningHost = '), hub], `
  const client = Client.fromConnectionString(hub, device.Mqtt)
  await client.open()
  await client.getTwin()
  await client.close()`))
  assert.equal(await shell(folder, lineOf('Node', 'export NODE_EXTRA_CA_CERTS='), 'node --no-deprecation device.js'), 'done\n')
})

test('Node: the line that changes no program', async (t) => {
  const folder = folderFor(t, below('.preload'))
  writeFileSync(join(folder, 'device.js'), deviceProgram('preload-contoso-tstrsd-007', 'Http',
    ["const provisioningHost = 'global.azure-devices-provisioning.net'"], ''))
  const line = lineOf('Node', 'or, without changing the program: ').replace('or, without changing the program: ', '')
  assert.equal(await shell(folder, line), 'done\n')
})

test('Python: the line of trust', async (t) => {
  const python = ['/usr/bin/python3', 'python3'].find((name) => runs(name, '-c', 'import ssl'))
  if (!need(t, python, 'python3')) return
  const folder = folderFor(t)
  writeFileSync(join(folder, 'device.py'), `${lineOf('Python', 'ca = ')}
import socket, ssl
context = ssl.create_default_context(cadata=ca)
for port in (${stack.https}, ${stack.mqtt}):
    with socket.create_connection(("localhost", port)) as plain, context.wrap_socket(plain, server_hostname="localhost"):
        print("trusted")
`)
  assert.equal(await shell(folder, `${python} device.py`), 'trusted\ntrusted\n')
})

/** A CONNECT to DPS, in hexadecimal. */
function connectPacket(id) {
  const text = (value) => Buffer.concat([Buffer.from([value.length >> 8, value.length & 0xff]), Buffer.from(value)])
  const resource = `${stack.idScope}/registrations/${id}`
  const body = Buffer.concat([
    text('MQTT'), Buffer.from([4, 0xc2, 0, 60]), text(id), text(`${resource}/api-version=2019-03-31&ClientVersion=java`),
    text(token(resource, derive(stack.keys[group], id), 3600, 'registration'))
  ])
  return Buffer.concat([Buffer.from([0x10, (body.length & 0x7f) | 0x80, body.length >> 7]), body]).toString('hex')
}

// What the SDK for Java does first: HTTPS, and MQTT over WebSocket at the path that only this SDK uses.
const javaProgram = `
import java.net.URI;
import java.net.http.*;
import java.nio.ByteBuffer;
import java.util.HexFormat;
import java.util.concurrent.*;

class Device {
  public static void main(String[] args) throws Exception {
    HttpClient client = HttpClient.newHttpClient();
    HttpRequest state = HttpRequest.newBuilder(URI.create("https://localhost:" + args[0] + "/_/state")).build();
    System.out.println(client.send(state, HttpResponse.BodyHandlers.ofString()).statusCode());
    CompletableFuture<String> answer = new CompletableFuture<>();
    WebSocket socket = client.newWebSocketBuilder().subprotocols("mqtt").buildAsync(URI.create("wss://localhost:" + args[0] + "/mqtt"), new WebSocket.Listener() {
      public CompletionStage<?> onBinary(WebSocket from, ByteBuffer data, boolean last) {
        byte[] bytes = new byte[data.remaining()];
        data.get(bytes);
        answer.complete(HexFormat.of().formatHex(bytes));
        return null;
      }
      public void onError(WebSocket from, Throwable error) { answer.completeExceptionally(error); }
    }).get(60, TimeUnit.SECONDS);
    socket.sendBinary(ByteBuffer.wrap(HexFormat.of().parseHex(args[1])), true).get(60, TimeUnit.SECONDS);
    System.out.println(answer.get(60, TimeUnit.SECONDS));
    System.exit(0);
  }
}
`

test('Java: the lines of trust, over HTTPS and MQTT over WebSocket', async (t) => {
  if (!need(t, runs('sh', '-c', 'command -v keytool && command -v java && command -v javac'), 'a JDK (default-jdk-headless)')) return
  const folder = folderFor(t)
  writeFileSync(join(folder, 'Device.java'), javaProgram)
  const java = lineOf('Java', 'java -D')
  assert.ok(java.endsWith(' ...'), java)
  const output = await shell(folder, `${lineOf('Java', 'keytool ')} 2>&1 >/dev/null`,
    java.replace(/\.\.\.$/, `Device.java ${stack.https} ${connectPacket('java-contoso-tstrsd-007')}`))
  assert.match(output, /^200\n20020000\n$/m)
})

test('each SDK is told how to reach its hub', () => {
  for (const sdk of ['Node', 'Python', 'C', 'C#', 'Java']) {
    assert.match(linesOf(sdk).join('\n'), /Gateway_?HostName/i, sdk)
  }
})
