// Devices with keys, against the starter rule for the breakroom's appliances.
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import * as e2e from './stack.mjs'

const groupKey = e2e.stack.keys['contoso-custom-allocated-devices']
const toasters = 'contoso-toasters-hub-1098.azure-devices.net'

suite('a group by symmetric key', { concurrency: true }, () => {
  for (const [name, transport] of Object.entries(e2e.transports)) {
    test(`over ${name}: assigned by rule, twin on the hub, payload to the device`, async () => {
      const id = `${name.replaceAll(' ', '').toLowerCase()}-contoso-tstrsd-007`
      const key = e2e.derive(groupKey, id)
      const result = await e2e.registerByKey(id, key, { transport, payload: { modelId: 'dtmi:contoso:toaster;1' } })
      assert.equal(result.status, 'assigned')
      assert.equal(result.substatus, 'initialAssignment')
      assert.equal(result.assignedHub, toasters)
      assert.equal(result.deviceId, id)
      assert.deepEqual(result.payload, { deviceType: 'toaster' })

      assert.deepEqual(await e2e.twinOn(toasters, id), {
        tags: { building: 'main', deviceType: 'toaster' }, // of the group and the rule
        desired: { state: 'ready', darknessSetting: 'medium' },
        reported: {}
      })
      await e2e.onHub(toasters, id, key, async (_client, twin) => {
        assert.equal(twin.properties.desired.darknessSetting, 'medium')
        await e2e.report(twin, { firmware: '1.2.3' })
        const pushed = new Promise((resolve) => twin.on('properties.desired.darknessSetting', (value) => value === 'dark' && resolve()))
        // The SDK does not say when it has subscribed, so the change is repeated until the device sees it.
        const seen = pushed.then(() => true)
        const change = { properties: { desired: { darknessSetting: 'dark' } } }
        do await e2e.registry(toasters).updateTwin(id, change, '*')
        while (!(await Promise.race([seen, new Promise((resolve) => setTimeout(resolve, 200))])))
      })
      assert.deepEqual((await e2e.twinOn(toasters, id)).reported, { firmware: '1.2.3' })

      const [call] = await e2e.journal(id, 'webhook')
      assert.deepEqual(call.request.deviceRuntimeContext.payload, { modelId: 'dtmi:contoso:toaster;1' })
      assert.equal(call.response.iotHubHostName, toasters)
    })
  }

  test('registering again changes nothing', async () => {
    const id = 'again-contoso-hpsd-088'
    const key = e2e.derive(groupKey, id)
    const first = await e2e.registerByKey(id, key)
    const second = await e2e.registerByKey(id, key, { transport: e2e.transports.mqtt })
    assert.equal(second.assignedHub, first.assignedHub)
    assert.equal(second.deviceId, id)
    assert.deepEqual(second.payload, { deviceType: 'heatpump' })
    const [, again] = await e2e.journal(id, 'webhook')
    assert.equal(again.request.deviceRuntimeContext.currentIotHubHostName, first.assignedHub)
  })

  test('a wrong key is refused', async () => {
    const id = 'wrongkey-contoso-tstrsd-007'
    await assert.rejects(e2e.registerByKey(id, e2e.newKey()), { name: 'UnauthorizedError' })
    await assert.rejects(e2e.registerByKey(id, e2e.newKey(), { transport: e2e.transports.mqtt }), /not authorized/i)
    assert.equal(await e2e.isOn(toasters, id), false)
  })

  test('the key of another device is refused', async () => {
    const key = e2e.derive(groupKey, 'one-contoso-tstrsd-007')
    await assert.rejects(e2e.registerByKey('other-contoso-tstrsd-007', key), { name: 'UnauthorizedError' })
  })
})

test('an individual enrollment gives the device its ID, and goes before groups', async () => {
  const registrationId = 'single-contoso-tstrsd-007'
  const key = e2e.newKey()
  await e2e.dps.createOrUpdateIndividualEnrollment({
    registrationId,
    deviceId: 'Toaster-In-The-Lobby',
    attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: key, secondaryKey: e2e.newKey() } },
    iotHubs: ['hub-a.azure-devices.net'],
    initialTwin: { tags: { place: 'lobby' }, properties: { desired: { interval: 60 } } },
    ...e2e.customAllocation(e2e.stack.webhook)
  })
  const result = await e2e.registerByKey(registrationId, key)
  assert.equal(result.deviceId, 'Toaster-In-The-Lobby')
  assert.equal(result.assignedHub, 'hub-a.azure-devices.net') // by the default rule
  assert.deepEqual(await e2e.twinOn('hub-a', 'Toaster-In-The-Lobby'), {
    tags: { place: 'lobby' }, desired: { interval: 60 }, reported: {}
  })
  await assert.rejects(e2e.registerByKey(registrationId, e2e.derive(groupKey, registrationId)), { name: 'UnauthorizedError' })
})
