// MQTT clients that are no Azure SDK, with tokens made by hand: mosquitto-clients of Debian, and Eclipse Paho for Python.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { writeFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { derive, journal, need, registry, runs, stack, token, twinOn, until } from './stack.mjs'

const run = promisify(execFile)
const group = 'contoso-custom-allocated-devices'
const ca = join(stack.pki, 'ca.pem')

/** How a device logs in to DPS and, once it is assigned, to its hub. */
const dpsLogin = (id) => ({
  id, username: `${stack.idScope}/registrations/${id}/api-version=2021-06-01&ClientVersion=hand-made`,
  password: token(`${stack.idScope}/registrations/${id}`, derive(stack.keys[group], id), 3600, 'registration')
})
const hubLogin = (hub, id) => ({
  id, username: `${hub}/${id}/?api-version=2021-04-12`, password: token(`${hub}/devices/${id}`, derive(stack.keys[group], id))
})

const common = ({ id, username, password }, version = 'mqttv311') =>
  ['-h', 'localhost', '-p', String(stack.mqtt), '--cafile', ca, '-i', id, '-u', username, '-P', password, '-V', version]

test('mosquitto-clients register a device, report properties and receive desired ones', async (t) => {
  if (!need(t, runs('sh', '-c', 'command -v mosquitto_pub && command -v mosquitto_sub'), 'mosquitto-clients')) return
  const id = 'mosquitto-contoso-tstrsd-007'
  // mosquitto_pub does not wait for answers, so the journal shows the outcome.
  await run('mosquitto_pub', [...common(dpsLogin(id)), '-q', '1', '-t', '$dps/registrations/PUT/iotdps-register/?$rid=1', '-m', JSON.stringify({ registrationId: id })])
  const { hub } = await until('the assignment', async () => (await journal(id, 'effect'))[0])
  const [registering] = await journal(id, 'register')
  assert.match(registering.error, /^not delivered: the device has not subscribed/)

  await run('mosquitto_pub', [...common(hubLogin(hub, id)), '-q', '1', '-t', '$iothub/twin/PATCH/properties/reported/?$rid=1', '-m', '{"fw":"1"}'])
  await until('the reported properties', async () => (await twinOn(hub, id)).reported.fw === '1')

  const listening = spawn('mosquitto_sub', [...common(hubLogin(hub, id)), '-q', '1', '-C', '1', '-t', '$iothub/twin/PATCH/properties/desired/#'])
  t.after(() => listening.kill())
  let output = ''
  listening.stdout.on('data', (text) => { output += text })
  let code
  listening.on('close', (status) => { code = status })
  // It does not say when it has subscribed, so the properties change until it has received a change.
  let level = 0
  await until('a change', async () => {
    await registry(hub).updateTwin(id, { properties: { desired: { level: ++level } } }, '*')
    return code !== undefined
  })
  assert.equal(code, 0)
  assert.match(output, /\{"level":\d+,"\$version":\d+\}/) // $version is the last
})

test('mosquitto-clients are told that MQTT 5 is not supported', async (t) => {
  if (!need(t, runs('sh', '-c', 'command -v mosquitto_pub'), 'mosquitto_pub of mosquitto-clients')) return
  const login = dpsLogin('mosquitto5-contoso-tstrsd-007')
  await assert.rejects(run('mosquitto_pub', [...common(login, 'mqttv5'), '-t', 'x', '-n', '-d']), (err) => {
    assert.match(err.stdout + err.stderr, /unsupported protocol version/i)
    return true
  })
})

// The program registers, then connects to the hub with CleanSession=0, and again with another token, as a renewal does.
const program = `
import json, queue, ssl, sys, time
import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties

given = json.load(open(sys.argv[1]))

def connect(login, clean=True, protocol=mqtt.MQTTv311):
    arguments = dict(client_id=login["id"], protocol=protocol)
    if protocol == mqtt.MQTTv311:
        arguments["clean_session"] = clean
    if hasattr(mqtt, "CallbackAPIVersion"):
        arguments["callback_api_version"] = mqtt.CallbackAPIVersion.VERSION1
    client = mqtt.Client(**arguments)
    client.username_pw_set(login["username"], login["password"])
    client.tls_set(ca_certs=given["ca"])
    connected, messages = queue.Queue(), queue.Queue()
    client.on_connect = lambda c, u, flags, code, properties=None: connected.put((flags, code, properties))
    client.on_message = lambda c, u, message: messages.put((message.topic, message.payload))
    client.on_subscribe = lambda *_: connected.put("subscribed")
    client.connect("localhost", given["port"])
    client.loop_start()
    return client, connected, messages

def leave(client):
    client.disconnect()
    client.loop_stop()

def subscribe(client, connected, topic):
    client.subscribe(topic, 1)
    assert connected.get(timeout=30) == "subscribed"

client, connected, messages = connect(given["dps"])
assert connected.get(timeout=30)[1] == 0
subscribe(client, connected, "$dps/registrations/res/#")
client.publish("$dps/registrations/PUT/iotdps-register/?$rid=1", json.dumps({"registrationId": given["dps"]["id"]}), 1)
while True:
    topic, body = messages.get(timeout=60)
    answer = json.loads(body)
    if answer["status"] != "assigning":
        break
    time.sleep(1)
    client.publish("$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId=" + answer["operationId"], " ", 1)
assert answer["status"] == "assigned", answer
hub = answer["registrationState"]["assignedHub"]
leave(client)

logins = given["hubs"][hub]
client, connected, messages = connect(logins[0], clean=False)
assert connected.get(timeout=30)[1] == 0
subscribe(client, connected, "$iothub/twin/res/#")
leave(client)
client, connected, messages = connect(logins[1], clean=False)
flags, code, _ = connected.get(timeout=30)
assert code == 0 and flags["session present"] == 1, (flags, code)
client.publish("$iothub/twin/GET/?$rid=1", None, 1)
topic, body = messages.get(timeout=30)
assert topic == "$iothub/twin/res/200/?$rid=1", topic
leave(client)

client, connected, _ = connect(given["dps"], protocol=mqtt.MQTTv5)
_, code, properties = connected.get(timeout=30)
leave(client)
print(json.dumps({"hub": hub, "twin": json.loads(body), "mqtt5": str(code), "why": properties.ReasonString}))
`

test('Paho for Python registers, keeps its session across a new token, and is told that MQTT 5 is not supported', async (t) => {
  const python = ['/usr/bin/python3', 'python3'].find((name) => runs(name, '-c', 'import paho.mqtt.client'))
  if (!need(t, python, 'Paho for Python (python3-paho-mqtt)')) return
  const folder = mkdtempSync(join(tmpdir(), 'usher-e2e-paho-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const id = 'paho-contoso-tstrsd-007'
  const hubs = ['contoso-toasters-hub-1098.azure-devices.net', 'contoso-heatpumps-hub-1098.azure-devices.net']
  writeFileSync(join(folder, 'given.json'), JSON.stringify({
    ca, port: stack.mqtt, dps: dpsLogin(id), hubs: Object.fromEntries(hubs.map((hub) => [hub, [hubLogin(hub, id), hubLogin(hub, id)]]))
  }), { mode: 0o600 })
  writeFileSync(join(folder, 'device.py'), program)
  const { stdout } = await run(python, [join(folder, 'device.py'), join(folder, 'given.json')])
  const result = JSON.parse(stdout)
  assert.ok(hubs.includes(result.hub))
  assert.equal(typeof result.twin.desired.$version, 'number')
  assert.match(result.mqtt5, /unsupported protocol version/i)
  assert.match(result.why, /level 5 is not supported: make the client use MQTT 3\.1\.1/)
})
