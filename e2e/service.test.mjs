// The service SDK manages the stand-in as it manages DPS.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as e2e from './stack.mjs'

const { dps } = e2e

test('groups: made, read, changed under their ETag, found, removed', async () => {
  const key = await e2e.newGroup('managed', { iotHubs: ['hub-a.azure-devices.net'] })
  const { responseBody: group } = await dps.getEnrollmentGroup('managed')
  assert.equal(group.enrollmentGroupId, 'managed')
  assert.equal(group.provisioningStatus, 'enabled')
  const attestation = (await dps.getEnrollmentGroupAttestationMechanism('managed')).responseBody
  assert.equal(attestation.symmetricKey.primaryKey, key)

  const { responseBody: changed } = await dps.createOrUpdateEnrollmentGroup({ ...group, attestation, provisioningStatus: 'disabled' })
  assert.notEqual(changed.etag, group.etag)
  await assert.rejects(dps.createOrUpdateEnrollmentGroup({ ...group, attestation }), { name: 'InvalidEtagError' })
  await assert.rejects(dps.deleteEnrollmentGroup('managed', group.etag), { name: 'InvalidEtagError' })
  // Without an ETag, the call may only create.
  const conflict = await dps.createOrUpdateEnrollmentGroup({ ...group, attestation, etag: undefined }).catch((err) => err)
  assert.match(conflict.responseBody ?? conflict.message, /409201/)
  const { responseBody: replaced } = await dps.createOrUpdateEnrollmentGroup({ ...group, attestation, etag: '*' })
  assert.equal(replaced.provisioningStatus, 'enabled')

  const found = await new Promise((resolve, reject) => {
    dps.createEnrollmentGroupQuery({ query: '*' }, 100).next(
      (err, page) => (err ? reject(err) : resolve(page.map((group) => group.enrollmentGroupId))))
  })
  assert.ok(found.includes('managed') && found.includes('tenant-devices'), `found ${found}`)

  await dps.deleteEnrollmentGroup('managed', replaced.etag)
  await assert.rejects(dps.getEnrollmentGroup('managed'), /Not found/)
})

test('individual enrollments: many at once, with the keys that DPS makes', async () => {
  const enrollments = [1, 2, 3].map((n) => ({
    registrationId: `bulk-${n}`, attestation: { type: 'symmetricKey', symmetricKey: {} }, ...e2e.customAllocation(e2e.stack.webhook)
  }))
  // With a callback, because without one this call of the SDK never ends.
  const result = await new Promise((resolve, reject) => {
    dps.runBulkEnrollmentOperation({ mode: 'create', enrollments }, (err, result) => (err ? reject(err) : resolve(result)))
  })
  assert.deepEqual(result, { isSuccessful: true, errors: [] })
  const { symmetricKey } = (await dps.getIndividualEnrollmentAttestationMechanism('bulk-2')).responseBody
  const state = await e2e.registerByKey('bulk-2', symmetricKey.primaryKey)
  assert.equal(state.status, 'assigned')

  const { responseBody: record } = await dps.getDeviceRegistrationState('bulk-2')
  assert.equal(record.assignedHub, state.assignedHub)
  await dps.deleteDeviceRegistrationState('bulk-2')
  await assert.rejects(dps.getDeviceRegistrationState('bulk-2'))
  assert.equal((await e2e.registerByKey('bulk-2', symmetricKey.primaryKey)).substatus, 'initialAssignment')
})

test('a mistake is named', async () => {
  const err = await dps.createOrUpdateEnrollmentGroup({
    enrollmentGroupId: 'mistaken', attestation: { type: 'symmetricKey' }, allocationPolicy: 'custom'
  }).catch((err) => err)
  assert.equal(err.name, 'ArgumentError') // the SDK's name for 400
  assert.match(err.responseBody ?? err.message, /customAllocationDefinition/)
})

test('the registry SDK lists devices and counts them', async () => {
  const key = await e2e.newGroup('counted', { iotHubs: ['hub-c.azure-devices.net'] })
  await Promise.all([1, 2, 3].map((n) => e2e.registerByKey(`counted-${n}`, e2e.derive(key, `counted-${n}`))))
  const registry = e2e.registry('hub-c')
  const { responseBody: statistics } = await registry.getRegistryStatistics()
  assert.equal(statistics.totalDeviceCount, 3)
  const { result } = await registry.createQuery('SELECT * FROM devices', 2).nextAsTwin()
  assert.equal(result.length, 2)
})

test('the registry SDK writes devices in bulk', async () => {
  const registry = e2e.registry('contoso-us-hub')
  const ids = ['bulk-hub-1', 'bulk-hub-2']
  const devices = ids.map((deviceId) => ({ deviceId }))
  const { responseBody: added } = await registry.addDevices(devices)
  assert.deepEqual([added.isSuccessful, added.errors], [true, []])
  assert.equal((await registry.get(ids[1])).responseBody.status, 'enabled')
  await registry.updateDevices(ids.map((deviceId) => ({ deviceId, status: 'disabled' })), true)
  assert.equal((await registry.get(ids[0])).responseBody.status, 'disabled')
  const { responseBody: removed } = await registry.removeDevices(devices, true)
  assert.equal(removed.isSuccessful, true)
  assert.equal(await e2e.isOn('contoso-us-hub', ids[0]), false)
})
