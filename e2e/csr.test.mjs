// A device makes a key and a certificate signing request with openssl, registers with its onboarding key, and connects to
// its hub with the certificate that it was issued. No SDK for Node has csr yet, so the calls are those of the
// specification; the hub's side is the device SDK.
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { createHmac, X509Certificate } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import https from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import mqtt from 'mqtt'
import * as e2e from './stack.mjs'

const host = 'global.azure-devices-provisioning.net'
const version = '2026-11-01'

const missing = spawnSync('openssl', ['version']).status !== 0
if (missing) {
  console.log('e2e: csr skipped, openssl is not installed')
  assert.notEqual(process.env.USHER_E2E, 'required')
}

/** Makes a key and a request, as a device would. */
function request(id) {
  const folder = mkdtempSync(join(tmpdir(), 'usher-csr-'))
  try {
    const [key, csr] = [join(folder, 'key.pem'), join(folder, 'csr.der')]
    const made = spawnSync('openssl', ['req', '-new', '-newkey', 'rsa:2048', '-nodes', '-keyout', key, '-subj', `/CN=${id}`,
      '-outform', 'DER', '-out', csr], { encoding: 'utf8' })
    assert.equal(made.status, 0, made.stderr)
    return { key: readFileSync(key, 'utf8'), csr: readFileSync(csr).toString('base64') }
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** The token that proves the device by its onboarding key. */
function token(id) {
  const resource = encodeURIComponent(`${e2e.stack.idScope}/registrations/${id}`)
  const expiry = Math.floor(Date.now() / 1000) + 3600
  const key = Buffer.from(e2e.derive(e2e.stack.keys['issued-devices'], id), 'base64')
  const signature = createHmac('sha256', key).update(`${resource}\n${expiry}`).digest('base64')
  return `SharedAccessSignature sr=${resource}&sig=${encodeURIComponent(signature)}&se=${expiry}&skn=registration`
}

/** A device that calls over HTTPS: {register, poll}, each of which resolves to [status, body]. */
function overHttps(id) {
  const call = (method, path, body) => new Promise((resolve, reject) => {
    const headers = { Authorization: token(id), 'Content-Type': 'application/json' }
    const sent = https.request({ host, method, headers, path: `/${e2e.stack.idScope}/registrations/${id}${path}?api-version=${version}` }, (response) => {
      const chunks = []
      response.on('data', (chunk) => chunks.push(chunk)).on('end', () => resolve([response.statusCode, JSON.parse(Buffer.concat(chunks))]))
    })
    sent.on('error', reject).end(body && JSON.stringify(body))
  })
  return {
    register: (body) => call('PUT', '/register', body),
    poll: (operation) => call('GET', `/operations/${operation}`),
    lookUp: (body) => call('POST', '', body),
    end: () => {}
  }
}

/** The same over MQTT. */
async function overMqtt(id) {
  const client = mqtt.connect(`mqtts://${host}:8883`, {
    clientId: id, password: token(id), reconnectPeriod: 0,
    username: `${e2e.stack.idScope}/registrations/${id}/api-version=${version}&ClientVersion=e2e`
  })
  await new Promise((resolve, reject) => client.on('connect', resolve).on('error', reject))
  await new Promise((resolve, reject) => client.subscribe('$dps/registrations/res/#', { qos: 1 }, (err) => (err ? reject(err) : resolve())))
  const call = (topic, body) => new Promise((resolve) => {
    client.once('message', (answer, payload) => resolve([Number(answer.split('/')[3]), JSON.parse(payload)]))
    client.publish(topic, JSON.stringify(body), { qos: 1 })
  })
  return {
    register: (body) => call('$dps/registrations/PUT/iotdps-register/?$rid=1', body),
    poll: (operation) => call(`$dps/registrations/GET/iotdps-get-operationstatus/?$rid=2&operationId=${operation}`, {}),
    end: () => client.end(true)
  }
}

for (const [name, connect] of Object.entries({ https: overHttps, mqtt: overMqtt })) {
  test(`a certificate on request over ${name}`, { skip: missing }, async () => {
    const id = `issued-${name}`
    const { key, csr } = request(id)
    const device = await connect(id)
    try {
      const [refused, why] = await device.register({ registrationId: id, csr: request('another').csr })
      assert.equal(refused, 400)
      assert.match(why.message, /common name is "another"/)
      let [status, answer] = await device.register({ registrationId: id, csr })
      while (status === 202) {
        await delay(50);
        [status, answer] = await device.poll(answer.operationId)
      }
      assert.equal(answer.status, 'assigned')
      const { assignedHub, deviceId, issuedCertificateChain } = answer.registrationState
      const chain = issuedCertificateChain.map((der) => new X509Certificate(Buffer.from(der, 'base64')))
      assert.equal(chain[0].subject, `CN=${id}`)
      chain.forEach((certificate, i) => assert.ok(certificate.verify(chain[Math.min(i + 1, chain.length - 1)].publicKey)))
      if (device.lookUp) {
        assert.equal((await device.lookUp({ registrationId: id }))[1].issuedCertificateChain, undefined)
        assert.equal((await device.lookUp({ registrationId: id, csr }))[0], 400)
      }
      const cert = chain.map(String).join('')
      await e2e.onHubByCertificate(assignedHub, deviceId, { cert, key }, (_client, twin) => e2e.report(twin, { by: 'issued certificate' }))
      assert.deepEqual((await e2e.twinOn(assignedHub, deviceId)).reported, { by: 'issued certificate' })
    } finally {
      device.end()
    }
  })
}
