// The part of a TPM 2.0 that azure-iot-security-tpm needs, in software: it has an endorsement key and a storage root
// key, and unwraps with their private keys what DPS wrapped for them, by the formulas of the TPM 2.0 library
// specification (parts 1 and 3: credential protection, duplication). It replaces /dev/tpmrm0, which the SDK would open.
import { constants, createDecipheriv, createHash, createHmac, generateKeyPairSync, privateDecrypt, randomBytes } from 'node:crypto'
import tss from 'tss.js'
import tpmSecurity from 'azure-iot-security-tpm'

const sha256 = (...parts) => createHash('sha256').update(Buffer.concat(parts)).digest()
const hmac = (key, ...parts) => createHmac('sha256', key).update(Buffer.concat(parts)).digest()
const decrypt = (key, text) => createDecipheriv('aes-128-cfb', key, Buffer.alloc(16)).update(text)

// kdfA is KDFa of part 1, 11.4.10.2, for at most 256 bits.
function kdfA(key, label, contextU, bits) {
  const number = (n) => Buffer.from([n >>> 24, n >>> 16, n >>> 8, n])
  return hmac(key, number(1), Buffer.from(`${label}\0`), contextU, number(bits)).subarray(0, bits / 8)
}

// sized splits off a TPM2B at the front: [its content, the rest].
function sized(buffer) {
  const end = 2 + buffer.readUInt16BE()
  if (end > buffer.length) throw new Error('a TPM2B is cut off')
  return [buffer.subarray(2, end), buffer.subarray(end)]
}

const nameOf = (area) => Buffer.concat([Buffer.from([0, 0x0b]), sha256(area.toBytes())])

// A primary key: the public part follows the SDK's template, the private part is in Node.
function primary(template) {
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 })
  const area = tss.TPMT_PUBLIC.fromBytes(template.toBytes())
  area.unique = new tss.TPM2B_PUBLIC_KEY_RSA(Buffer.from(publicKey.export({ format: 'jwk' }).n, 'base64url'))
  return {
    area,
    // unseal decrypts a seed that was encrypted to this key for one purpose.
    unseal: (secret, label) => privateDecrypt(
      { key: privateKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: 'sha256', oaepLabel: Buffer.from(`${label}\0`) }, secret)
  }
}

// open removes the outer wrapper that credentials and duplicates have in common.
function open(seed, name, integrity, sealed, what) {
  if (!hmac(kdfA(seed, 'INTEGRITY', Buffer.alloc(0), 256), sealed, name).equals(integrity)) {
    throw new Error(`the integrity of the ${what} is broken`)
  }
  return decrypt(kdfA(seed, 'STORAGE', name, 128), sealed)
}

const identityHandle = 0x81000100

export class SoftwareTpm {
  #primaries = {
    0x81010001: primary(tpmSecurity.TpmSecurityClient._ekTemplate),
    0x81000001: primary(tpmSecurity.TpmSecurityClient._srkTemplate)
  }

  #loaded // the identity key: {area, key}
  #persistent // the same key after it was persisted

  connect(callback) { callback() }
  allowErrors() { return this }
  withSession() { return this }
  withSessions() { return this }
  FlushContext(_handle, callback) { callback(null) }
  GetRandom(n, callback) { callback(null, randomBytes(n)) }
  PolicySecret(_entity, _session, _nonce, _cpHash, _ref, _expiration, callback) { callback(null, {}) }

  StartAuthSession(_key, _bind, _nonce, _salt, _type, _symmetric, _hash, callback) {
    callback(null, { handle: new tss.TPM_HANDLE(0x03000000), nonceTPM: randomBytes(20) })
  }

  GetCapability(_capability, property, _count, callback) {
    callback(null, { capabilityData: { tpmProperty: [{ property, value: 1024 }] } })
  }

  ReadPublic({ handle }, callback) {
    const found = this.#primaries[handle] ?? (handle === identityHandle ? this.#persistent : undefined)
    if (found) callback(null, { outPublic: found.area })
    else callback(Object.assign(new Error('no such handle'), { responseCode: tss.TPM_RC.HANDLE }))
  }

  // The credential is bound to the name of the storage root key, and encrypted to the endorsement key.
  ActivateCredential(activate, key, { integrityHMAC, encIdentity }, secret, callback) {
    const name = nameOf(this.#primaries[activate.handle].area)
    const seed = this.#primaries[key.handle].unseal(secret, 'IDENTITY')
    callback(null, sized(open(seed, name, integrityHMAC, encIdentity, 'credential'))[0])
  }

  Import(parent, innerKey, area, duplicate, secret, _symmetric, callback) {
    const name = nameOf(area)
    const seed = this.#primaries[parent.handle].unseal(secret, 'DUPLICATE')
    const [integrity, sealed] = sized(duplicate.buffer)
    const [innerIntegrity, sensitive] = sized(decrypt(innerKey, open(seed, name, integrity, sealed, 'duplicate')))
    if (!sha256(sensitive, name).equals(innerIntegrity)) throw new Error('the inner integrity of the duplicate is broken')
    callback(null, new tss.TPM2B_PRIVATE(sensitive))
  }

  Load(_parent, { buffer }, area, callback) {
    const [content] = sized(buffer)
    const [, afterAuth] = sized(content.subarray(2)) // after the type
    const [seedValue, afterSeed] = sized(afterAuth)
    const [key] = sized(afterSeed)
    if (content.readUInt16BE() !== tss.TPM_ALG_ID.KEYEDHASH || !sha256(seedValue, key).equals(area.unique.buffer)) {
      throw new Error('the private part of the key does not match its public part')
    }
    this.#loaded = { area, key }
    callback(null, new tss.TPM_HANDLE(0x80000001))
  }

  EvictControl(_hierarchy, object, persistent, callback) {
    if (persistent.handle !== identityHandle) throw new Error('only the identity key is persisted here')
    this.#persistent = object.handle === persistent.handle ? undefined : this.#loaded
    callback(null)
  }

  HMAC(_handle, data, _hash, callback) {
    if (!this.#persistent) callback(Object.assign(new Error('no such handle'), { responseCode: tss.TPM_RC.HANDLE }))
    else callback(null, hmac(this.#persistent.key, Buffer.from(data)))
  }
}
