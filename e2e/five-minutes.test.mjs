// docs/five-minutes.md, step by step: its program against the configuration that `usher dps --init` writes, with its
// own stand-in.
import assert from 'node:assert/strict'
import { execFile, spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { stack } from './stack.mjs'

const run = promisify(execFile)
const page = readFileSync(join(stack.root, 'docs', 'five-minutes.md'), 'utf8')
const blocks = (kind) => [...page.matchAll(new RegExp(`^\`\`\`${kind}\\n(.*?)^\`\`\`$`, 'gms'))].map((match) => match[1])

test('the program of the page prints what the page says', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'usher-e2e-page-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const env = { ...process.env, NODE_OPTIONS: '', NODE_EXTRA_CA_CERTS: '' }
  await run(stack.usher, ['dps', '--init'], { cwd: folder, env })
  const dps = spawn(stack.usher, ['dps', '--https', '0', '--mqtt', '0', '--webhook', stack.webhook], { cwd: folder, env, stdio: ['ignore', 'pipe', 'ignore'] })
  t.after(() => new Promise((resolve) => { dps.on('exit', resolve); dps.kill('SIGINT') }))
  await new Promise((resolve) => createInterface({ input: dps.stdout }).on('line', (line) => line.startsWith('Made-up devices') && resolve()))

  // Below node_modules, where the packages are found and which git ignores.
  const place = join(fileURLToPath(new URL('.', import.meta.url)), 'node_modules', '.five-minutes')
  mkdirSync(place, { recursive: true })
  t.after(() => rmSync(place, { recursive: true, force: true }))
  const [program] = blocks('js')
  writeFileSync(join(place, 'device.js'), program)

  const outputs = blocks('text').filter((text) => /^(hub|refused): /.test(text))
  assert.equal(outputs.length, 2)
  for (const [i, id] of ['lobby-contoso-tstrsd-007', 'kettle-1'].entries()) {
    assert.ok(page.includes(`ID=${id}`), `the page does not name ${id}`)
    const { stdout: key } = await run(stack.usher, ['dps', 'key', 'contoso-custom-allocated-devices', id], { cwd: folder, env })
    const { stdout } = await run(process.execPath, [join(place, 'device.js'), id, key.trim()], {
      cwd: folder,
      env: {
        ...env,
        ID_SCOPE: '0ne00000000',
        NODE_EXTRA_CA_CERTS: '.usher-dps/ca.pem',
        NODE_OPTIONS: `--require ${join(folder, '.usher-dps', 'loopback.cjs')} --no-deprecation`
      }
    })
    assert.equal(stdout, outputs[i])
  }
})
