// Usher's other commands, next to the SDKs and on the results of their registrations.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { copyFileSync, readFileSync } from 'node:fs'
import { suite, test } from 'node:test'
import { promisify } from 'node:util'
import * as e2e from './stack.mjs'

const usher = (...args) => promisify(execFile)(e2e.stack.usher, args, { cwd: e2e.stack.root, maxBuffer: 256 << 20 })
const places = ['--config', e2e.stack.config, '--folder', e2e.stack.pki]

const entries = () => readFileSync(e2e.stack.journal, 'utf8').split('\n').slice(0, -1).map((line) => JSON.parse(line))

test('the key that usher derives is the one that an SDK registers with', async () => {
  const id = 'derived-contoso-tstrsd-007'
  const { stdout } = await usher('dps', 'key', ...places, 'contoso-custom-allocated-devices', id)
  assert.equal((await e2e.registerByKey(id, stdout.trim())).deviceId, id)
})

suite('a fleet registers at the same endpoints', async () => {
  for (const transport of ['http', 'mqtt']) {
    test(`over ${transport}, and the journal has all of it`, async () => {
      const group = `fleet-${transport}`
      const key = await e2e.newGroup(group, { iotHubs: ['hub-a', 'hub-b'].map(e2e.hostName) })
      const { stdout } = await usher('dps', 'fleet', ...places, '--devices', '100', '--storm', '1', '--transport', transport,
        '--group', group, '--group-key', key, '--id', `${group}-{n}`, '-o', 'json')
      const { rounds } = JSON.parse(stdout)
      for (const round of rounds) {
        assert.equal(round.assigned, 100)
        assert.equal(round.hubs['hub-a.azure-devices.net'] + round.hubs['hub-b.azure-devices.net'], 100)
        assert.equal(round.moved, 0)
      }
      const calls = entries().filter((entry) => entry.kind === 'webhook' && entry.registrationId.startsWith(`${group}-`))
      assert.equal(calls.length, 200)
      assert.equal(new Set(calls.map((entry) => entry.registrationId)).size, 100)
    })
  }
})

test('replay and explain take the journal', async () => {
  const snapshot = `${e2e.stack.journal}.copy`
  copyFileSync(e2e.stack.journal, snapshot)
  const { stdout } = await usher('replay', snapshot, '-o', 'json')
  const report = JSON.parse(stdout)
  const asked = readFileSync(snapshot, 'utf8').split('\n').slice(0, -1).map((line) => JSON.parse(line))
    .filter((entry) => entry.kind === 'webhook' && entry.attempt === 1)
  assert.ok(asked.length > 0)
  assert.equal(report.registrations, asked.length)
  assert.deepEqual(report.malformedFirst, [])
  const explained = await usher('explain', snapshot, '--number', '1', '-o', 'json')
  assert.equal(JSON.parse(explained.stdout).device.registrationId, asked[0].registrationId)
})

test('the journal holds no key, token or code', () => {
  const text = readFileSync(e2e.stack.journal, 'utf8')
  assert.doesNotMatch(text, /SharedAccessSignature sr=|PRIVATE KEY|sig=[A-Za-z0-9%]{20}/)
  for (const key of Object.values(e2e.stack.keys)) assert.ok(!text.includes(key), 'a group key is in it')
})
