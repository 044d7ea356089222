// make e2e: the tests of the page of usher play, in a browser. Without one, it says so and exits with 0; with
// USHER_E2E=required, it fails. Words as arguments choose files.
import { spawn } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { install, skip } from '../packages.mjs'

const here = dirname(fileURLToPath(import.meta.url))
const browser = [process.env.USHER_CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) => path && existsSync(path))
if (!browser) skip('chromium is not installed (USHER_CHROMIUM names another browser of its kind)')
install()
const words = process.argv.slice(2)
const files = readdirSync(here).filter((name) => name.endsWith('.test.mjs') && (words.length === 0 || words.some((word) => name.includes(word)))).sort()
const tests = spawn(process.execPath, ['--test', '--test-concurrency=1', '--test-reporter=spec', ...files.map((name) => join(here, name))], {
  stdio: 'inherit', env: { ...process.env, USHER_CHROMIUM: browser }
})
tests.on('exit', (code) => { process.exitCode = code ?? 1 })
