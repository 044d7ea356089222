// What a device sees when the webhook rejects or holds it.
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import * as e2e from './stack.mjs'

suite('refusals', { concurrency: true }, () => {
  for (const [name, transport] of Object.entries(e2e.transports)) {
    test(`rejected by a rule, over ${name}: 400207 at once`, async () => {
      const id = `kettle-${name.replaceAll(' ', '').toLowerCase()}`
      const key = e2e.derive(e2e.stack.keys['contoso-custom-allocated-devices'], id)
      const err = await e2e.registerByKey(id, key, { transport }).catch((err) => err)
      assert.equal(err.name, 'ProvisioningRegistrationFailedError')
      const { registrationState } = err.result
      assert.equal(registrationState.status, 'failed')
      assert.equal(registrationState.errorCode, 400207)
      assert.match(registrationState.errorMessage, /^Custom allocation failed with status code: 4\d\d$/)
      assert.equal((await e2e.journal(id, 'webhook')).length, 1)
    })
  }

  test('a webhook that wants another key: 400209', async () => {
    const key = await e2e.newGroup('locked', e2e.customAllocation(`${e2e.stack.faulty}/401`))
    const err = await e2e.registerByKey('locked-1', e2e.derive(key, 'locked-1')).catch((err) => err)
    assert.equal(err.result.registrationState.errorCode, 400209)
  })

  test('a webhook that names no hub: 400208', async () => {
    const key = await e2e.newGroup('nowhere', e2e.customAllocation(`${e2e.stack.faulty}/no-hub`))
    const err = await e2e.registerByKey('nowhere-1', e2e.derive(key, 'nowhere-1')).catch((err) => err)
    assert.equal(err.result.registrationState.errorCode, 400208)
  })

  test('a disabled enrollment', async () => {
    const key = await e2e.newGroup('closed', { provisioningStatus: 'disabled' })
    await assert.rejects(e2e.registerByKey('closed-1', e2e.derive(key, 'closed-1')), /disabled/)
  })

  test('nobody enrolled it', async () => {
    await assert.rejects(e2e.registerByKey('stranger', e2e.newKey()), { name: 'UnauthorizedError' })
  })
})
