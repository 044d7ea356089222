// make check: says whether dist is what build.mjs makes of the sources.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { install } from '../../../e2e/packages.mjs'

const here = dirname(fileURLToPath(import.meta.url))
install(here, 'page')
const built = mkdtempSync(join(tmpdir(), 'usher-page-'))
try {
  const { status } = spawnSync(process.execPath, [join(here, 'build.mjs'), built], { stdio: 'inherit' })
  if (status !== 0) throw new Error('the page cannot be built')
  const dist = join(here, 'dist')
  const names = new Set([...readdirSync(built), ...readdirSync(dist)])
  const differ = [...names].filter((name) => {
    try {
      return !readFileSync(join(built, name)).equals(readFileSync(join(dist, name)))
    } catch {
      return true
    }
  })
  if (differ.length > 0) throw new Error(`internal/play/page/dist is not what its sources make: ${differ.join(', ')} (run make page)`)
} catch (err) {
  console.error(`page: ${err.message}`)
  process.exitCode = 1
} finally {
  rmSync(built, { recursive: true, force: true })
}
