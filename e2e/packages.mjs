// The packages of the tests. If they cannot be installed, the tests are skipped; with USHER_E2E=required, that fails.
import { spawnSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))

// Errors of npm if the network is missing.
const offline = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ENOTCACHED|ERR_SOCKET_TIMEOUT|network/i

export function skip(why) {
  console.log(`e2e: skipped, ${why}`)
  process.exit(process.env.USHER_E2E === 'required' ? 1 : 0)
}

export function install() {
  const installed = join(here, 'node_modules', '.package-lock.json')
  const lock = join(here, 'package-lock.json')
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return
  console.log('e2e: npm ci')
  const npm = spawnSync('npm', ['ci', '--no-progress', '--loglevel=error', '--prefer-offline', '--fetch-retries=1', '--fetch-timeout=60000'], { cwd: here, encoding: 'utf8', shell: process.platform === 'win32' })
  if (npm.error?.code === 'ENOENT') skip('npm is not installed')
  if (npm.status === 0) return
  if (offline.test(npm.stderr)) skip(`the packages cannot be fetched: ${npm.stderr.trim().split('\n')[0]}`)
  throw new Error(`npm ci failed:\n${npm.stderr}`)
}
