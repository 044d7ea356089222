import assert from 'node:assert/strict'
import { createServer } from 'node:http'
import { test } from 'node:test'
import { browse, chooseRequest, has, openFile, pane, play, serve } from './browser.mjs'

const evil = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'

test('HTML in rules, requests and answers stays text', async (t) => {
  const { page } = await play(t, {
    files: {
      'line/line.rego': `# METADATA
# title: ${JSON.stringify(evil)}
# custom:
#   enrollment_groups: [line-*]
package allocation.line

reject contains ${JSON.stringify(evil)}

payload := {${JSON.stringify(evil)}: input.deviceRuntimeContext.registrationId}
`
    }
  })
  await openFile(page, 'line/line.rego')
  await chooseRequest(page, 'a new device of line-*')
  await has(pane(page, 'answer').locator('.where'), '<img src=x') // the reason
  await pane(page, 'request').getByLabel('Registration ID').fill(evil)
  await has(pane(page, 'answer').locator('.where'), 'This is not a request') // such an ID is none
  assert.equal(await page.locator('img:not(.cm-widgetBuffer), script:not([src])').count(), 0)
  assert.equal(await page.evaluate(() => window.hacked), undefined)
})

test('another origin gets nothing, neither by reading nor by writing', async (t) => {
  const server = await serve(t)
  const context = await browse(t)
  const own = await context.newPage()
  await own.goto(server.address) // the browser has the cookie now
  await own.locator('.headline').waitFor()
  const foreign = createServer((_, response) => response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html><title>foreign</title>'))
  await new Promise((resolve) => foreign.listen(0, '127.0.0.1', resolve))
  t.after(() => foreign.close())
  const page = await context.newPage()
  await page.goto(`http://127.0.0.1:${foreign.address().port}/`)
  const attempts = await page.evaluate(async (origin) => {
    const attempt = (path, options) => fetch(origin + path, { credentials: 'include', ...options }).then((response) => response.status, () => 'refused')
    return {
      read: await attempt('/api/workspace'),
      simple: await attempt('/api/workspace', { mode: 'no-cors' }).then((status) => status || 'opaque'),
      write: await attempt('/api/file', { method: 'PUT', headers: { 'Content-Type': 'application/json' }, body: '{"path":"line/evil.rego","text":"","digest":""}' }),
      form: await attempt('/api/share', { method: 'POST', mode: 'no-cors', headers: { 'Content-Type': 'text/plain' }, body: '{}' }).then((status) => status || 'opaque')
    }
  }, server.origin)
  assert.equal(attempts.read, 'refused')
  assert.equal(attempts.write, 'refused')
  assert.notEqual(attempts.simple, 200) // a browser blocks the body, by Cross-Origin-Resource-Policy
  assert.notEqual(attempts.form, 200)
  assert.throws(() => server.read('line/evil.rego'))
  const framed = await page.evaluate((origin) => new Promise((resolve) => {
    const frame = document.createElement('iframe')
    frame.src = origin
    frame.onload = () => resolve(frame.contentDocument === null)
    document.body.append(frame)
  }), server.origin)
  assert.equal(framed, true)
})

test('without the token there is no page, and it says what to do', async (t) => {
  const server = await serve(t)
  const page = await (await browse(t)).newPage()
  const response = await page.goto(server.origin)
  assert.equal(response.status(), 401)
  await has(page.locator('body'), 'usher play')
})
