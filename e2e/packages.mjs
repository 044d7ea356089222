// Packages of npm. If they cannot be installed, what needs them is skipped; with USHER_E2E=required, that fails.
import { spawnSync } from 'node:child_process'
import { existsSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))

// Errors of npm if the network is missing.
const offline = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|ENOTCACHED|ERR_SOCKET_TIMEOUT|network/i

export function skip(why, what = 'e2e') {
  console.log(`${what}: skipped, ${why}`)
  process.exit(process.env.USHER_E2E === 'required' ? 1 : 0)
}

// install installs the packages of a folder, unless it has them.
export function install(folder = here, what = 'e2e') {
  const installed = join(folder, 'node_modules', '.package-lock.json')
  const lock = join(folder, 'package-lock.json')
  if (existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs) return
  console.log(`${what}: npm ci`)
  const npm = spawnSync('npm', ['ci', '--no-progress', '--loglevel=error', '--prefer-offline', '--fetch-retries=1', '--fetch-timeout=60000'], { cwd: folder, encoding: 'utf8', shell: process.platform === 'win32' })
  if (npm.error?.code === 'ENOENT') skip('npm is not installed', what)
  if (npm.status === 0) return
  if (offline.test(npm.stderr)) skip(`the packages cannot be fetched: ${npm.stderr.trim().split('\n')[0]}`, what)
  throw new Error(`npm ci failed:\n${npm.stderr}`)
}
