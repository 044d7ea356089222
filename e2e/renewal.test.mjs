// The device SDK for Node renews its token: it connects again, with CleanSession=0, and does not subscribe again.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import common from 'azure-iot-common'
import device from 'azure-iot-device'
import deviceMqtt from 'azure-iot-device-mqtt'
import { derive, hubJournal, registerByKey, registry, report, stack, token, until } from './stack.mjs'

const group = 'contoso-custom-allocated-devices'

/** Registers a device and returns what it needs to connect to its hub. */
async function registered(id) {
  const key = derive(stack.keys[group], id)
  const { assignedHub } = await registerByKey(id, key)
  return { key, hub: assignedHub, connectionString: `HostName=${assignedHub};DeviceId=${id};SharedAccessKey=${key}` }
}

const connects = async (id) => (await hubJournal(id)).filter(({ method, status }) => method === 'CONNECT' && status === 200).length

const setDesired = (hub, id, desired) => registry(hub).updateTwin(id, { properties: { desired } }, '*')

test('after the renewal of its token, a device still reads its twin and receives desired properties', async (t) => {
  const id = 'renewed-contoso-tstrsd-007'
  const { hub, connectionString } = await registered(id)
  const provider = device.SharedAccessKeyAuthenticationProvider.fromConnectionString(connectionString, 8, 5)
  const client = device.Client.fromAuthenticationProvider(provider, deviceMqtt.Mqtt)
  t.after(() => client.close())
  await client.open()
  const twin = await client.getTwin()
  const seen = []
  twin.on('properties.desired', (change) => seen.push(change))
  await setDesired(hub, id, { level: 1 })
  await until('the first change', () => seen.some(({ level }) => level === 1))

  const before = await connects(id)
  await until('two renewals', async () => (await connects(id)) >= before + 2)
  // The SDK asks again on the connection that it has now, and on the subscriptions of the first one.
  await report(twin, { fw: '2' })
  await new Promise((resolve, reject) => twin.get((err) => (err ? reject(err) : resolve())))
  await setDesired(hub, id, { level: 2 })
  await until('the change after the renewals', () => seen.some(({ level }) => level === 2))

  for (const entry of await hubJournal(id)) {
    assert.ok(!entry.error || entry.method === 'DISCONNECT', `${entry.method}: ${entry.error}`)
  }
})

test('a connection ends when its token does, and the journal says so', async (t) => {
  const id = 'expired-contoso-tstrsd-007'
  const { hub, key } = await registered(id)
  // A token that the program makes, and does not renew.
  const client = device.Client.fromSharedAccessSignature(token(`${hub}/devices/${id}`, key, 4), deviceMqtt.Mqtt)
  client.setRetryPolicy(new common.NoRetry())
  t.after(() => client.close().catch(() => {}))
  await client.open()
  const lost = new Promise((resolve) => client.on('disconnect', resolve))
  await lost
  const entry = await until('the entry', async () => (await hubJournal(id)).find(({ method }) => method === 'DISCONNECT'))
  assert.match(entry.error, /^the connection was ended: the SharedAccessSignature expired at /)
})
