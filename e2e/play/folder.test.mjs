import assert from 'node:assert/strict'
import { test } from 'node:test'
import { browse, chooseRequest, editor, has, open, openFile, pane, picture, play, rule, serve, type } from './browser.mjs'

const files = { 'line/line.rego': rule('hub := input.linkedHubs[0]') }

test('what another program changes is shown, and an edit is never written over it', async (t) => {
  const { page, server } = await play(t, { files })
  await openFile(page, 'line/line.rego')
  const theirs = rule('hub := input.linkedHubs[0]\n\npayload := {"by": "another program"}')
  server.write('line/line.rego', theirs)
  await has(editor(page), 'another program') // taken over: there was no edit
  await type(page, rule('hub := input.linkedHubs[0]\n\npayload := {"by": "me"}'))
  server.write('line/line.rego', rule('hub := input.linkedHubs[0]\n\npayload := {"by": "somebody else"}'))
  await has(page.locator('.banner'), 'Another program changed this file')
  await page.locator('.cm-deletedChunk').first().waitFor()
  await picture(page, 'merge')
  await page.keyboard.press('ControlOrMeta+s')
  await has(page.locator('.notice'), 'was changed by another program')
  assert.match(server.read('line/line.rego'), /somebody else/)
  await page.getByRole('button', { name: 'Keep mine' }).click()
  await page.getByRole('button', { name: 'Save', exact: true }).click()
  await has(page.locator('.notice'), 'line/line.rego is saved')
  assert.match(server.read('line/line.rego'), /"by": "me"/)
})

test('a file that appears is listed and decides', async (t) => {
  const { page, server } = await play(t, { files })
  server.write('press/press.rego', rule('hub := input.linkedHubs[0]', { group: 'press-*', name: 'press' }))
  await page.locator('.file[title^="press/press.rego"]').waitFor()
  await page.getByLabel('Choose a request').locator('option', { hasText: 'a new device of press-*' }).waitFor({ state: 'attached' })
})

test('edits survive a reload, and a second tab hears of them', async (t) => {
  const { page, server, context } = await play(t, { files })
  await openFile(page, 'line/line.rego')
  await chooseRequest(page, 'a new device of line-*')
  await type(page, rule('reject contains "kept over a reload"'))
  await has(pane(page, 'answer').locator('.headline'), 'rejected')
  await page.reload()
  await has(editor(page), 'kept over a reload')
  await has(page.locator('.bar .saved'), '1 unsaved')
  const second = await open(t, context, { address: server.origin })
  await openFile(second, 'line/line.rego')
  await has(second.locator('.banner'), 'Another tab has unsaved edits of this file')
  await page.bringToFront()
  await page.getByRole('button', { name: 'Save', exact: true }).click()
  await has(editor(second), 'kept over a reload')
})

test('a folder that is open for reading only has nothing to save', async (t) => {
  const server = await serve(t, { files, args: ['--read-only'] })
  const page = await open(t, await browse(t), server)
  await has(page.locator('.bar .saved'), 'read-only')
  assert.equal(await page.getByRole('button', { name: 'Save', exact: true }).count(), 0)
  assert.equal(await page.getByRole('button', { name: 'New', exact: true }).count(), 0)
})
