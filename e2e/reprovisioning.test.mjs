// A device registers, reports to its hub, and registers again after its hub was removed from the enrollment. The tests
// check what happens to the device and its twin under each reprovision policy, according to Azure's documentation.
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import * as e2e from './stack.mjs'

const hubs = ['hub-a', 'hub-b'].map(e2e.hostName)
const initialTwin = { tags: { from: 'group' }, properties: { desired: { interval: 60 } } }
const initial = { tags: { from: 'group' }, desired: { interval: 60 }, reported: {} }
const lived = { tags: { from: 'group', service: 'seen' }, desired: { interval: 5 }, reported: { firmware: '1.2.3' } }

const expected = {
  migrate: { moves: true, substatus: 'deviceDataMigrated', twin: lived },
  reset: { moves: true, substatus: 'deviceDataReset', twin: initial },
  never: { moves: false, twin: lived },
  unset: { moves: true, substatus: 'deviceDataMigrated', twin: lived } // both members of the policy default to true
}

suite('moves', { concurrency: true }, () => {
  for (const [policy, want] of Object.entries(expected)) {
    test(`policy ${policy}`, async () => {
      const group = `moving-${policy}`
      const id = `${group}-1`
      const key = e2e.derive(await e2e.newGroup(group, {
        iotHubs: hubs, initialTwin, reprovisionPolicy: e2e.policies[policy]
      }), id)
      const first = await e2e.registerByKey(id, key)
      assert.deepEqual(await e2e.twinOn(first.assignedHub, id), initial)
      await e2e.onHub(first.assignedHub, id, key, (_client, twin) => e2e.report(twin, lived.reported))
      await e2e.registry(first.assignedHub).updateTwin(
        id, { tags: { service: 'seen' }, properties: { desired: { interval: 5 } } }, '*')

      const left = hubs.filter((hub) => hub !== first.assignedHub)
      await e2e.changeGroup(group, { iotHubs: left })
      const second = await e2e.registerByKey(id, key)
      const hub = want.moves ? left[0] : first.assignedHub
      assert.equal(second.assignedHub, hub)
      if (want.substatus) assert.equal(second.substatus, want.substatus)
      assert.deepEqual(await e2e.twinOn(hub, id), want.twin)
      assert.equal(await e2e.isOn(first.assignedHub, id), !want.moves)
      const { responseBody: record } = await e2e.dps.getDeviceRegistrationState(id)
      assert.equal(record.assignedHub, hub)

      const [, call] = await e2e.journal(id, 'webhook')
      assert.equal(call.request.deviceRuntimeContext.currentIotHubHostName, first.assignedHub)
      assert.deepEqual(call.request.linkedHubs, want.moves ? left : [first.assignedHub])

      // The device continues to work on its hub, with the same key.
      await e2e.onHub(hub, id, key, (_client, twin) => e2e.report(twin, { after: policy }))
    })
  }

  test('policy reset: the twin of the rule, not of the group', async () => {
    const id = 'field-0042'
    const group = 'field-devices'
    const key = e2e.derive(e2e.stack.keys[group], id)
    const first = await e2e.registerByKey(id, key)
    assert.deepEqual(first.payload, { quarantine: false })
    await e2e.registry(first.assignedHub).updateTwin(id, { tags: { service: 'seen' } }, '*')
    const { responseBody: { iotHubs } } = await e2e.dps.getEnrollmentGroup(group)
    await e2e.changeGroup(group, { iotHubs: iotHubs.filter((hub) => hub !== first.assignedHub) })
    const second = await e2e.registerByKey(id, key)
    assert.notEqual(second.assignedHub, first.assignedHub)
    assert.equal(second.substatus, 'deviceDataReset')
    assert.deepEqual((await e2e.twinOn(second.assignedHub, id)).tags, { quarantine: false })
  })
})
