// A rule holds a registration because its data is incomplete. DPS calls again for minutes. Meanwhile the data is
// completed and deployed; the device waits, and is then assigned.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import * as e2e from './stack.mjs'

// deploy starts the webhook with its own rules.
function deploy(rules, port) {
  return new Promise((resolve, reject) => {
    const host = spawn(e2e.stack.usher, ['host', '--root', e2e.stack.root, '--port', String(port)],
      { stdio: ['ignore', 'pipe', 'ignore'], env: { ...process.env, NODE_OPTIONS: '', USHER_RULES: rules } })
    const ended = new Promise((resolve) => host.on('exit', resolve))
    ended.then((code) => reject(new Error(`usher host ended with ${code}`)))
    createInterface({ input: host.stdout }).on('line', (line) => {
      const url = line.match(/^POST (\S+)/)?.[1]
      if (url) resolve({ url, stop: () => { host.kill('SIGINT'); return ended } })
    })
  })
}

async function until(condition) {
  const end = Date.now() + 20_000
  while (!(await condition())) {
    if (Date.now() > end) throw new Error('it did not happen within 20 s')
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

test('held, fixed, assigned', async (t) => {
  const rules = join(mkdtempSync(join(tmpdir(), 'usher-e2e-hold-')), 'rules')
  t.after(() => rmSync(join(rules, '..'), { recursive: true, force: true }))
  cpSync(join(e2e.stack.root, 'rules'), rules, { recursive: true })
  const first = await deploy(rules, 0)
  const key = await e2e.newGroup('north-factory', { ...e2e.customAllocation(first.url), iotHubs: ['contoso-eu-hub'].map(e2e.hostName) })
  const registered = e2e.registerByKey('mill-1', e2e.derive(key, 'mill-1'))
  await until(async () => (await e2e.journal('mill-1', 'webhook')).filter((call) => call.status === 503).length >= 2)
  await first.stop()

  const data = join(rules, 'residency', 'data.json')
  const residency = JSON.parse(readFileSync(data, 'utf8'))
  residency.enrollments['north-factory'] = 'eu'
  writeFileSync(data, JSON.stringify(residency))
  const second = await deploy(rules, new URL(first.url).port)
  t.after(second.stop)

  const result = await registered
  assert.equal(result.assignedHub, 'contoso-eu-hub.azure-devices.net')
  assert.deepEqual((await e2e.twinOn(result.assignedHub, 'mill-1')).tags, { region: 'eu' })
  const calls = await e2e.journal('mill-1', 'webhook')
  assert.equal(calls.at(-1).status, 200)
  assert.equal(calls.at(-1).attempt, calls.length)
})
