import assert from 'node:assert/strict'
import { test } from 'node:test'
import { has, openFile, pane, picture, play, rule } from './browser.mjs'

const files = {
  'line/line.rego': rule('hub := input.linkedHubs[0] if input.deviceRuntimeContext.registrationId != "never"\n\nreject contains "no" if input.deviceRuntimeContext.payload.no'),
  'line/line_test.rego': `package allocation.line_test

import data.allocation.line

request := {"linkedHubs": ["a.azure-devices.net"], "deviceRuntimeContext": {"registrationId": "press-1"}}

test_first_hub if line.hub == "a.azure-devices.net" with input as request

test_that_fails if line.hub == "b.azure-devices.net" with input as request
`
}

test('tests run, and their coverage is in the margin', async (t) => {
  const { page } = await play(t, { files })
  await openFile(page, 'line/line.rego')
  await page.keyboard.press('ControlOrMeta+Enter')
  const prove = pane(page, 'prove')
  await has(prove.locator('.pill'), '1 failed')
  await has(prove.locator('.cases li'), 'test_that_fails')
  await page.locator('.cover-yes').first().waitFor()
  await page.locator('.cover-no').first().waitFor()
  await picture(page, 'tests')
  await prove.locator('.cases').getByRole('button', { name: 'line_test.test_that_fails' }).click()
  await has(page.locator('#pane-editor .path'), 'line/line_test.rego')
})

test('a counterexample is one click from the request, and is kept as a test', async (t) => {
  const { page, server } = await play(t, { files: { 'line/line.rego': rule('hub := input.linkedHubs[0]\n\nhub := input.linkedHubs[1] if input.linkedHubs[1]') } })
  await openFile(page, 'line/line.rego')
  await page.locator('.tabs').getByRole('button', { name: 'Prove' }).click()
  const prove = pane(page, 'prove')
  await prove.getByLabel('Rule', { exact: true }).selectOption({ label: 'Machines of the assembly lines' })
  await prove.getByLabel('How many requests to try').selectOption('1000')
  await prove.getByRole('button', { name: 'Search' }).click()
  await prove.locator('.broken-promise').first().waitFor({ timeout: 120000 })
  await picture(page, 'counterexample')
  await prove.getByRole('button', { name: 'Show the counterexample' }).first().click()
  await page.locator('#pane-request .choose option', { hasText: 'counterexample of' }).waitFor({ state: 'attached' })
  await pane(page, 'answer').locator('.headline').waitFor()
  await page.getByRole('button', { name: 'Keep as test' }).click()
  const dialog = page.getByRole('dialog')
  await dialog.getByLabel('Name').fill('found')
  await dialog.getByRole('button', { name: 'Keep', exact: true }).click()
  await has(page.locator('#pane-editor .path'), 'line/found.request.json')
  assert.ok(server.read('line/found.decision.json'))
})

test('a search can be stopped', async (t) => {
  const { page } = await play(t)
  await page.locator('.tabs').getByRole('button', { name: 'Prove' }).click()
  const prove = pane(page, 'prove')
  await prove.getByLabel('How many requests to try').selectOption('100000')
  await prove.getByRole('button', { name: 'Search' }).click()
  await prove.getByRole('button', { name: 'Stop' }).click()
  await has(prove, 'Stopped.')
})
