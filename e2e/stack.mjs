// What run.mjs started, and the SDKs' clients for it. The SDKs are unchanged: they get Azure's host names, which the
// preload of `usher dps` redirects to the stand-in.
import { createHmac, randomBytes } from 'node:crypto'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import provisioning from 'azure-iot-provisioning-device'
import provisioningHttp from 'azure-iot-provisioning-device-http'
import provisioningMqtt from 'azure-iot-provisioning-device-mqtt'
import provisioningService from 'azure-iot-provisioning-service'
import symmetricKey from 'azure-iot-security-symmetric-key'
import x509 from 'azure-iot-security-x509'
import iothub from 'azure-iothub'
import device from 'azure-iot-device'
import deviceMqtt from 'azure-iot-device-mqtt'

/** Addresses and keys of what runs. */
export const stack = JSON.parse(readFileSync(process.env.USHER_E2E_STACK, 'utf8'))

export const transports = {
  http: provisioningHttp.Http,
  mqtt: provisioningMqtt.Mqtt,
  'mqtt over WebSocket': provisioningMqtt.MqttWs
}

const globalHost = 'global.azure-devices-provisioning.net'

/** The service SDK's client of DPS. */
export const dps = provisioningService.ProvisioningServiceClient.fromConnectionString(stack.dpsConnectionString)

/** The device key that a group's key gives, in base64. */
export const derive = (groupKey, id) =>
  createHmac('sha256', Buffer.from(groupKey, 'base64')).update(id).digest('base64')

/** A shared access signature for a resource, made by hand, which expires in so many seconds. */
export function token(resource, key, seconds = 3600, policy = '') {
  const sr = encodeURIComponent(resource)
  const se = Math.floor(Date.now() / 1000) + seconds
  const sig = createHmac('sha256', Buffer.from(key, 'base64')).update(`${sr}\n${se}`).digest('base64')
  return `SharedAccessSignature sr=${sr}&sig=${encodeURIComponent(sig)}&se=${se}${policy && `&skn=${policy}`}`
}

/** Skips a test, with one line, where a program is missing. With USHER_E2E=required that is a failure. */
export function need(t, found, what) {
  if (found) return true
  if (process.env.USHER_E2E === 'required') throw new Error(`${what} is missing, and USHER_E2E is required`)
  t.skip(`${what} is missing`)
  return false
}

/** Whether a program runs, and ends without an error. */
export const runs = (program, ...args) => spawnSync(program, args, { stdio: 'ignore' }).status === 0

/** The journal's entries of a device's calls to its hub. */
export async function hubJournal(deviceId) {
  const entries = []
  for (let after = 0; ;) {
    const page = await (await fetch(`${stack.management}/_/journal?limit=1000&after=${after}`)).json()
    entries.push(...page.entries.filter((entry) => entry.url?.startsWith('mqtts://') && entry.url.includes(`/${deviceId}/`)))
    if (page.next >= page.last) return entries
    after = page.next
  }
}

/** Waits for a condition, which may be asynchronous. */
export async function until(what, condition) {
  for (const end = Date.now() + 60_000; ;) {
    const value = await condition()
    if (value) return value
    if (Date.now() > end) throw new Error(`timeout: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

export const newKey = () => randomBytes(32).toString('base64')

/** Registers by key. Fails as the SDK fails. */
export const registerByKey = (id, key, { payload, transport = provisioningHttp.Http } = {}) =>
  register(new symmetricKey.SymmetricKeySecurityClient(id, key), transport, payload)

/** Registers by certificate: {cert, key} in PEM, with the chain in cert. */
export const registerByCertificate = (id, certificate, { payload, transport = provisioningHttp.Http } = {}) =>
  register(new x509.X509Security(id, certificate), transport, payload)

/** Registers through a security client of an SDK, and resolves to the registration's state. */
export function register(security, Transport, payload) {
  const client = provisioning.ProvisioningDeviceClient.create(globalHost, stack.idScope, new Transport(), security)
  if (payload) client.setProvisioningPayload(payload)
  return new Promise((resolve, reject) => {
    client.register((err, result) => (err ? reject(err) : resolve(result)))
  })
}

/** The registry SDK's client of one hub, by host name or first label. */
export const registry = (hub) => iothub.Registry.fromConnectionString(
  `HostName=${hostName(hub)};SharedAccessKeyName=iothubowner;SharedAccessKey=${stack.hubKey}`)

export const hostName = (hub) => (hub.includes('.') ? hub : `${hub}.azure-devices.net`)

/** The twin as the service side of a hub tells it, as plain JSON. */
export async function twinOn(hub, deviceId) {
  const { responseBody } = await registry(hub).getTwin(deviceId)
  return {
    tags: responseBody.tags ?? {},
    desired: withoutMetadata(responseBody.properties.desired),
    reported: withoutMetadata(responseBody.properties.reported)
  }
}

/** Whether a hub has the device, as the registry SDK sees it. */
export async function isOn(hub, deviceId) {
  try {
    await registry(hub).get(deviceId)
    return true
  } catch (err) {
    if (err.name === 'DeviceNotFoundError') return false
    throw err
  }
}

const withoutMetadata = (part) => {
  const { $metadata, $version, ...rest } = JSON.parse(JSON.stringify(part ?? {}))
  return rest
}

/** Runs work with the device SDK connected to its hub over MQTT by key, then closes. */
export const onHub = (hub, deviceId, key, work) => connected(
  device.Client.fromConnectionString(`HostName=${hub};DeviceId=${deviceId};SharedAccessKey=${key}`, deviceMqtt.Mqtt), work)

/** The same with a certificate. */
export function onHubByCertificate(hub, deviceId, certificate, work) {
  const client = device.Client.fromConnectionString(`HostName=${hub};DeviceId=${deviceId};x509=true`, deviceMqtt.Mqtt)
  client.setOptions(certificate)
  return connected(client, work)
}

/** The same with a way to authenticate of its own, such as a TPM. */
export const onHubByProvider = (provider, work) =>
  connected(device.Client.fromAuthenticationProvider(provider, deviceMqtt.Mqtt), work)

async function connected(client, work) {
  await client.open()
  try {
    return await work(client, await client.getTwin())
  } finally {
    await client.close()
  }
}

/** Sends reported properties, and resolves once the hub has them. */
export const report = (twin, properties) => new Promise((resolve, reject) => {
  twin.properties.reported.update(properties, (err) => (err ? reject(err) : resolve()))
})

export const policies = {
  migrate: { updateHubAssignment: true, migrateDeviceData: true },
  reset: { updateHubAssignment: true, migrateDeviceData: false },
  never: { updateHubAssignment: false, migrateDeviceData: false },
  unset: undefined
}

/** Makes an enrollment group with a symmetric key of its own, and resolves to that key. */
export async function newGroup(enrollmentGroupId, more = {}) {
  const key = newKey()
  await dps.createOrUpdateEnrollmentGroup({
    enrollmentGroupId,
    attestation: { type: 'symmetricKey', symmetricKey: { primaryKey: key, secondaryKey: newKey() } },
    ...customAllocation(stack.webhook),
    ...more
  })
  return key
}

export const customAllocation = (webhookUrl) => ({
  provisioningStatus: 'enabled',
  allocationPolicy: 'custom',
  customAllocationDefinition: { webhookUrl, apiVersion: '2021-10-01' }
})

/** Changes members of a group by the service SDK, as an operator would. */
export async function changeGroup(id, change) {
  const { responseBody: group } = await dps.getEnrollmentGroup(id)
  const key = (await dps.getEnrollmentGroupAttestationMechanism(id)).responseBody
  await dps.createOrUpdateEnrollmentGroup({ ...group, attestation: key, ...change })
}

/** The journal's entries of a registration. */
export async function journal(registrationId, kind) {
  const response = await fetch(`${stack.management}/_/journal?registrationId=${encodeURIComponent(registrationId)}`)
  const { entries } = await response.json()
  return entries.filter((entry) => !kind || entry.kind === kind)
}
