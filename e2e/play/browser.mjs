// Starts usher play over a copy of the rules, and opens it in a browser.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..', '..')
const usher = join(root, 'bin', 'usher')
const patience = 30000 // ms; for a busy machine

const flags = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'
]

// serve starts usher play; t ends it. Options: files of the folder instead of the starter rules, and arguments.
export function serve(t, { files, args = [] } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'usher-play-'))
  const rules = join(folder, 'rules')
  cpSync(join(root, 'rules'), rules, { recursive: true, filter: (path) => !path.endsWith('.go') })
  if (files) {
    for (const name of ['breakroom', 'failover', 'fill', 'inventory', 'quarantine', 'residency', 'tenants']) rmSync(join(rules, name), { recursive: true })
  }
  const write = (name, text) => {
    mkdirSync(dirname(join(rules, name)), { recursive: true })
    writeFileSync(join(rules, name), text)
  }
  for (const [name, text] of Object.entries(files ?? {})) write(name, text)
  const child = spawn(usher, ['play', '--no-open', '--rules', rules, ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  const output = []
  t.after(async () => {
    const ended = new Promise((resolve) => child.once('exit', resolve))
    if (child.exitCode === null) {
      child.kill('SIGINT')
      await ended
    }
    rmSync(folder, { recursive: true, force: true })
  })
  return new Promise((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`usher play ended with ${code}:\n${output.join('\n')}`)))
    child.once('error', reject)
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        output.push(line)
        const address = line.match(/^http:\S+token=\S+$/)?.[0]
        if (address) resolve({ address, origin: new URL(address).origin, folder, write, read: (name) => readFileSync(join(rules, name), 'utf8') })
      })
    }
  })
}

// browse opens a browser of its own; t closes it.
export async function browse(t, options = {}) {
  const browser = await chromium.launch({ executablePath: process.env.USHER_CHROMIUM, args: flags })
  t.after(() => browser.close())
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, reducedMotion: 'reduce', acceptDownloads: true, ...options })
  context.setDefaultTimeout(patience)
  return context
}

// open opens the page, and fails the test if the page reports an error or breaks its own content security policy.
export async function open(t, context, { address }) {
  const page = await context.newPage()
  const errors = []
  page.on('pageerror', (err) => errors.push(err.stack))
  page.on('console', (message) => {
    // Answers that the page shows, calls that it gave up, and the end of usher play.
    const refused = /Failed to load resource: (?:the server responded with a status of (?:404|409|422|503)|net::ERR_)/
    if (message.type() === 'error' && !refused.test(message.text())) errors.push(message.text())
  })
  t.after(() => assert.deepEqual(errors, []))
  await page.goto(address)
  await page.locator('.headline').waitFor()
  return page
}

// play is all three.
export async function play(t, options = {}) {
  const server = await serve(t, options)
  const context = await browse(t, options.browser)
  return { server, context, page: await open(t, context, server) }
}

export const pane = (page, name) => page.locator(`#pane-${name}`)

// has waits until an element has a text.
export const has = (locator, text) => locator.filter({ hasText: text }).first().waitFor()

export async function openFile(page, path) {
  await page.locator(`.file[title^="${path}"]`).click()
  await has(page.locator('#pane-editor .path'), path)
}

// chooseRequest chooses one, and waits until the page shows it.
export async function chooseRequest(page, label) {
  const [response] = await Promise.all([page.waitForResponse(/\/api\/requests\/./), page.getByLabel('Choose a request').selectOption({ label })])
  await response.finished()
  const { name } = await response.json()
  await page.waitForFunction((name) => JSON.parse(Object.entries(sessionStorage).find(([key]) => key.startsWith('usher-play:'))?.[1] ?? '{}').request?.name === name, name)
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))))
}

export const editor = (page) => page.locator('#pane-editor .cm-content')

// replace pastes a text over what an editor has.
export async function replace(page, content, text) {
  await content.click()
  await page.keyboard.press('ControlOrMeta+a')
  await content.evaluate((element, text) => {
    const clipboardData = new DataTransfer()
    clipboardData.setData('text/plain', text)
    element.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }))
  }, text)
}

export const type = (page, text) => replace(page, editor(page), text)

// picture keeps what the page looks like as an artefact of the build.
export async function picture(page, name) {
  const folder = process.env.USHER_SCREENSHOTS
  if (!folder) return
  mkdirSync(folder, { recursive: true })
  await page.screenshot({ path: join(folder, `${name}.png`) })
}

export const rule = (body, { group = 'line-*', name = 'line' } = {}) => `# METADATA
# title: Machines of the assembly lines
# custom:
#   enrollment_groups: [${group}]
package allocation.${name}
${body.includes('dps.') ? '\nimport data.dps\n' : ''}
${body}
`
