// The stand-in works with any webhook: the rule of Microsoft's tutorial in a dozen lines of Node gives the same answers
// as Usher's starter rule for the same appliances.
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import * as e2e from './stack.mjs'

const toasters = 'contoso-toasters-hub-1098.azure-devices.net'
const heatPumps = 'contoso-heatpumps-hub-1098.azure-devices.net'

suite("the tutorial's webhook", async () => {
  for (const [id, hub, desired] of [
    ['node499-contoso-tstrsd-007', toasters, { state: 'ready', darknessSetting: 'medium' }],
    ['node167-contoso-hpsd-088', heatPumps, { state: 'on', temperatureSetting: '65' }]
  ]) {
    test(`${id} goes where Usher sends it`, async () => {
      const group = `tutorial-${id}`
      const key = e2e.derive(await e2e.newGroup(group, {
        ...e2e.customAllocation(e2e.stack.tutorial), iotHubs: [toasters, heatPumps]
      }), id)
      const theirs = await e2e.registerByKey(id, key)
      const ours = await e2e.registerByKey(`usher-${id}`,
        e2e.derive(e2e.stack.keys['contoso-custom-allocated-devices'], `usher-${id}`))
      assert.equal(theirs.assignedHub, hub)
      assert.equal(ours.assignedHub, hub)
      assert.deepEqual((await e2e.twinOn(hub, id)).desired, desired)
      assert.deepEqual((await e2e.twinOn(hub, `usher-${id}`)).desired, desired)
    })
  }

  test('it too refuses what is no appliance', async () => {
    const key = await e2e.newGroup('tutorial-kettles', e2e.customAllocation(e2e.stack.tutorial))
    const err = await e2e.registerByKey('kettle', e2e.derive(key, 'kettle')).catch((err) => err)
    assert.equal(err.result.registrationState.errorCode, 400207)
  })
})
