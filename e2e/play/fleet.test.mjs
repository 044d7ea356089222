import assert from 'node:assert/strict'
import { createWriteStream, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { once } from 'node:events'
import { test } from 'node:test'
import { has, openFile, pane, picture, play, rule, type } from './browser.mjs'

const devices = 100000

// request is that of a device of the staged solution.
const request = (i, id = `dev-${String(i).padStart(6, '0')}`, group = 'staged-devices') => JSON.stringify({
  enrollmentGroup: { enrollmentGroupId: group, attestation: { type: 'symmetricKey' }, reprovisionPolicy: { updateHubAssignment: true, migrateDeviceData: true } },
  deviceRuntimeContext: { registrationId: id, symmetricKey: {}, currentIotHubHostName: `contoso-v${i % 10 === 0 ? 2 : 1}-hub.azure-devices.net`, currentDeviceId: id },
  linkedHubs: ['contoso-v1-hub.azure-devices.net', 'contoso-v2-hub.azure-devices.net']
})

// exchange has the answer, too: else usher play decides them all.
const exchange = (i) => `{"request": ${request(i)}, "decision": {"outcome": "assigned", "hub": "contoso-v${i % 10 === 0 ? 2 : 1}-hub.azure-devices.net"}}`

// log writes a log and returns its path.
async function log(t, lines) {
  const folder = mkdtempSync(join(tmpdir(), 'usher-play-log-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const path = join(folder, 'requests.ndjson')
  const file = createWriteStream(path)
  for (const line of lines) if (!file.write(line + '\n')) await once(file, 'drain')
  file.end()
  await once(file, 'finish')
  return path
}

const fleetOf = async (page) => {
  await page.locator('.tabs').getByRole('button', { name: 'Fleet' }).click()
  return pane(page, 'fleet')
}

test('a log of 100,000: where devices are, who moves, and one click to a request', async (t) => {
  const path = await log(t, function * () { for (let i = 0; i < devices; i++) yield exchange(i) }())
  const { page, server } = await play(t, { args: ['--log', path] })
  await openFile(page, 'staged/data.json')
  const fleet = await fleetOf(page)
  await has(fleet.locator('.tile').filter({ hasText: 'devices' }), '100,000')
  await fleet.locator('.drawing svg .band').first().waitFor()
  await has(fleet.locator('.filters [role=status]'), /1–50 of 100,000/)
  await picture(page, 'fleet')
  await fleet.getByRole('button', { name: 'Next page' }).click()
  await has(fleet.locator('.filters [role=status]'), /51–100 of 100,000/)
  await fleet.getByLabel('Registration ID contains').fill('dev-04242')
  await has(fleet.locator('.filters [role=status]'), /1–10 of 10$/)

  await page.locator('.tabs').getByRole('button', { name: 'Decide' }).click()
  await type(page, server.read('staged/data.json').replace(/"percent": \d+/, '"percent": 60'))
  await fleetOf(page)
  await fleet.getByRole('button', { name: 'Who moves?' }).click()
  await fleet.locator('.tile-move').waitFor({ timeout: 300000 })
  await has(fleet, /The change takes [\d,]+ registrations/)
  await fleet.locator('.matrix .cell-move').first().waitFor()
  await picture(page, 'replay')
  const who = fleet.getByRole('region', { name: 'Who moves' }).locator('tbody tr').first()
  const id = await who.locator('.place').first().innerText()
  await who.locator('.place').first().click()
  assert.equal(await pane(page, 'request').getByLabel('Registration ID').inputValue(), id)
  await has(pane(page, 'answer').locator('.card'), /not as before.*The log has hub contoso-v\d-hub/)
})

// record is a decision record without the payload.
const record = (i) => JSON.stringify({
  usherRecord: 1, decisionId: `D-${i}`, time: '2026-11-22T01:02:03Z', source: 'current', rules: { digest: 'sha256:1' }, status: 200,
  decision: { outcome: 'assigned', hub: 'contoso-v1-hub.azure-devices.net' }, masked: ['/deviceRuntimeContext/payload'], request: JSON.parse(request(i, `masked-${i}`, 'line-1'))
})
const whole = () => JSON.stringify({ request: JSON.parse(request(1, 'whole', 'line-1')), decision: { outcome: 'assigned', hub: 'contoso-v1-hub.azure-devices.net' } })

test('what a replay leaves out comes first, and no one is said to stay for it', async (t) => {
  const files = { 'line/line.rego': rule('hub := input.linkedHubs[0]\n\nreject contains "old" if input.deviceRuntimeContext.payload.old') }
  for (const [lines, first, verdict] of [
    [[whole()], null, 'No one: the rules change nothing'],
    [[whole(), ...Array.from({ length: 12 }, (_, i) => record(i))], 'Left out: 12 of 13 (92.3%): 12 records that lack', 'No change for the device that could be replayed.'],
    [[record(0)], 'Left out: 1 of 1 (100.0%)', 'Not known: nothing could be replayed.']
  ]) {
    const path = await log(t, lines)
    const { page } = await play(t, { files, args: ['--log', path] })
    const fleet = await fleetOf(page)
    await fleet.getByRole('button', { name: 'Who moves?' }).click()
    const replayed = fleet.locator('section[aria-label=Replay]')
    await has(replayed, verdict)
    assert.equal(await replayed.getByText('No one').count(), first ? 0 : 1)
    assert.equal(await replayed.locator('.banner').count(), first ? 1 : 0)
    if (!first) continue
    await has(replayed.locator('.banner summary'), first)
    await has(replayed.locator('.banner li').first(), 'masked, and the rules look at it: /deviceRuntimeContext/payload')
    assert.ok(await replayed.locator('.banner').evaluate((banner) => banner.compareDocumentPosition(banner.parentElement.querySelector('.tiles')) & 4), 'it comes before the figures')
    if (lines.length > 10) await has(replayed.locator('.banner li'), 'and 2 more')
  }
})

test('a log that is hostile stays text', async (t) => {
  const evil = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
  const lines = Array.from({ length: 20 }, (_, i) => request(i, `${evil}${i}`, i % 2 ? evil : '</title></svg><script>window.hacked=1</script>'))
  const path = await log(t, [...lines, '<svg onload="window.hacked=1">', '\u0000\u001b[31m', '{"registrationId":'])
  const { page } = await play(t, { args: ['--log', path] })
  const fleet = await fleetOf(page)
  await has(fleet.locator('.devices td'), '<img src=x')
  await fleet.locator('.drawing svg .band').first().waitFor()
  await has(fleet, '3 lines could not be used')
  await fleet.locator('.devices .place').first().click()
  await has(pane(page, 'answer').locator('.headline'), /./)
  assert.equal(await page.locator('img:not(.cm-widgetBuffer), script:not([src]), foreignObject, svg a').count(), 0)
  assert.equal(await page.evaluate(() => window.hacked), undefined)
})
