// A device whose key never leaves its TPM. The SDK's TPM client is real; the TPM is software-tpm.mjs.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as e2e from './stack.mjs'

const missing = await Promise.all([import('azure-iot-security-tpm'), import('tss.js')]).then(() => false, (err) => err)
const skip = missing && `azure-iot-security-tpm is not installed: ${missing.message}`

async function enrolled(registrationId) {
  const { default: tpmSecurity } = await import('azure-iot-security-tpm')
  const { SoftwareTpm } = await import('./software-tpm.mjs')
  const security = new tpmSecurity.TpmSecurityClient(registrationId, new SoftwareTpm())
  const endorsementKey = await new Promise((resolve, reject) => {
    security.getEndorsementKey((err, key) => (err ? reject(err) : resolve(key.toString('base64'))))
  })
  await e2e.dps.createOrUpdateIndividualEnrollment({
    registrationId,
    attestation: { type: 'tpm', tpm: { endorsementKey } },
    iotHubs: ['hub-a.azure-devices.net'],
    ...e2e.customAllocation(e2e.stack.webhook)
  })
  return { security, tpmSecurity }
}

test('a TPM proves itself to DPS, and its key opens the hub', { skip }, async () => {
  const { security, tpmSecurity } = await enrolled('vault-1')
  const { registrationState: result } = await e2e.register(security, e2e.transports.http)
  assert.equal(result.assignedHub, 'hub-a.azure-devices.net')
  await new Promise((resolve, reject) => {
    security.activateIdentityKey(Buffer.from(result.tpm.authenticationKey, 'base64'), (err) => (err ? reject(err) : resolve()))
  })
  const provider = tpmSecurity.TpmAuthenticationProvider.fromTpmSecurityClient('vault-1', result.assignedHub, security)
  await e2e.onHubByProvider(provider, (_client, twin) => e2e.report(twin, { sealed: true }))
  assert.deepEqual((await e2e.twinOn('hub-a', 'vault-1')).reported, { sealed: true })
  const [call] = await e2e.journal('vault-1', 'webhook')
  assert.equal(typeof call.request.deviceRuntimeContext.tpm.endorsementKey, 'string')
})

test('another TPM cannot pass for it', { skip }, async () => {
  await enrolled('vault-2')
  const { default: tpmSecurity } = await import('azure-iot-security-tpm')
  const { SoftwareTpm } = await import('./software-tpm.mjs')
  const thief = new tpmSecurity.TpmSecurityClient('vault-2', new SoftwareTpm())
  await assert.rejects(e2e.register(thief, e2e.transports.http))
  assert.equal(await e2e.isOn('hub-a', 'vault-2'), false)
})
