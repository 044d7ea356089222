// Devices with certificates, against the starter rule for tenants.
import assert from 'node:assert/strict'
import { suite, test } from 'node:test'
import * as e2e from './stack.mjs'

const { certificates } = e2e.stack

suite('a group by signing certificate', { concurrency: true }, () => {
  for (const name of ['http', 'mqtt']) {
    test(`over ${name}: the rule reads the certificate`, async () => {
      const id = `press-${name}`
      const certificate = certificates[id]
      const result = await e2e.registerByCertificate(id, certificate, { transport: e2e.transports[name] })
      assert.deepEqual(result.payload, { tenant: 'contoso' })
      assert.match(result.assignedHub, /^contoso-(eu|us)-hub\./)
      assert.equal(result.x509.enrollmentGroupId, 'tenant-devices')
      assert.deepEqual((await e2e.twinOn(result.assignedHub, id)).tags, { tenant: 'contoso' })
      await e2e.onHubByCertificate(result.assignedHub, id, certificate, (_client, twin) => e2e.report(twin, { by: 'certificate' }))
      assert.deepEqual((await e2e.twinOn(result.assignedHub, id)).reported, { by: 'certificate' })
    })
  }

  test('through an intermediate authority', async () => {
    const result = await e2e.registerByCertificate('press-intermediate', certificates['press-intermediate'])
    assert.deepEqual(result.payload, { tenant: 'contoso' })
  })

  test('of a tenant that is none: rejected, 400207', async () => {
    const err = await e2e.registerByCertificate('press-unknown', certificates['press-unknown']).catch((err) => err)
    assert.equal(err.name, 'ProvisioningRegistrationFailedError')
    assert.equal(err.result.registrationState.errorCode, 400207)
  })

  test('of a foreign authority: refused', async () => {
    await assert.rejects(e2e.registerByCertificate('press-foreign', certificates['press-foreign']), { name: 'UnauthorizedError' })
  })

  test('expired: refused', async () => {
    await assert.rejects(e2e.registerByCertificate('press-expired', certificates['press-expired']), { name: 'UnauthorizedError' })
  })

  test('of another device: refused', async () => {
    await assert.rejects(e2e.registerByCertificate('press-other', certificates['press-http']), { name: 'UnauthorizedError' })
  })
})

test('an individual enrollment by certificate', async () => {
  const id = 'lathe-1'
  const certificate = certificates[id]
  await e2e.dps.createOrUpdateIndividualEnrollment({
    registrationId: id,
    attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: certificate.cert } } } },
    iotHubs: ['hub-b.azure-devices.net'],
    ...e2e.customAllocation(e2e.stack.webhook)
  })
  const result = await e2e.registerByCertificate(id, certificate, { transport: e2e.transports.mqtt })
  assert.equal(result.assignedHub, 'hub-b.azure-devices.net')
  const [call] = await e2e.journal(id, 'webhook')
  assert.equal(typeof call.request.deviceRuntimeContext.x509.clientCertificate, 'string')
  await assert.rejects(e2e.registerByCertificate(id, certificates['lathe-1-renewed']), { name: 'UnauthorizedError' })
})

test('an individual enrollment with two certificates: a roll-over', async () => {
  const id = 'lathe-2'
  const [old, renewed] = [certificates[id], certificates['lathe-2-renewed']]
  await e2e.dps.createOrUpdateIndividualEnrollment({
    registrationId: id,
    attestation: { type: 'x509', x509: { clientCertificates: { primary: { certificate: old.cert }, secondary: { certificate: renewed.cert } } } },
    iotHubs: ['hub-b.azure-devices.net'],
    ...e2e.customAllocation(e2e.stack.webhook)
  })
  const connects = (certificate) => e2e.onHubByCertificate(e2e.hostName('hub-b'), id, certificate, (_client, twin) => e2e.report(twin, { seen: true }))
  await e2e.registerByCertificate(id, old)
  await connects(old)
  // The hub knows only the certificate that registered, although DPS takes either.
  await assert.rejects(connects(renewed), { name: 'UnauthorizedError' })
  await e2e.registerByCertificate(id, renewed)
  await connects(renewed)
  await assert.rejects(connects(old), { name: 'UnauthorizedError' })
})
