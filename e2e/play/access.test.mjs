import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { chooseRequest, has, openFile, pane, picture, play, rule } from './browser.mjs'

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

// examine runs axe in the page, from outside of the content security policy.
async function examine(page, where) {
  await page.evaluate(axe)
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }))
  const found = violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))
    .map(({ id, nodes }) => `${where}: ${id}: ${nodes.slice(0, 3).map(({ html, failureSummary }) => `${html.slice(0, 160)} ${failureSummary.split('\n')[1] ?? ''}`).join('; ')}`)
  return found
}

test('axe finds nothing serious, at both widths, in light and dark', async (t) => {
  const { page } = await play(t)
  await openFile(page, 'staged/staged.rego')
  await chooseRequest(page, 'staged-moved')
  await page.locator('.gutter-marks .mark-gave').first().waitFor()
  const found = []
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme })
    await page.setViewportSize({ width: 1280, height: 800 })
    for (const name of ['Decide', 'Prove', 'Fleet']) {
      await page.locator('.tabs').getByRole('button', { name }).click()
      found.push(...await examine(page, `${name} ${colorScheme} 1280`))
      await picture(page, `${name.toLowerCase()}-1280-${colorScheme}`)
    }
    await page.locator('.tabs').getByRole('button', { name: 'Decide' }).click()
    for (const name of ['Share', 'Keys']) {
      await page.getByRole('button', { name, exact: true }).click()
      found.push(...await examine(page, `${name} ${colorScheme}`))
      await page.keyboard.press('Escape')
    }
    await page.setViewportSize({ width: 400, height: 800 })
    for (const name of ['Files', 'Editor', 'Request', 'Answer', 'Prove', 'Fleet']) {
      await page.locator('.tabs').getByRole('button', { name }).click()
      await pane(page, name.toLowerCase()).waitFor()
      const { scrolled, wide } = await page.evaluate(() => ({ scrolled: document.documentElement.scrollWidth, wide: document.documentElement.clientWidth }))
      assert.ok(scrolled <= wide, `${name} is wider than the page: ${scrolled}`)
      found.push(...await examine(page, `${name} ${colorScheme} 400`))
      await picture(page, `${name.toLowerCase()}-400-${colorScheme}`)
    }
  }
  assert.deepEqual(found, [])
})

test('the keyboard is enough', async (t) => {
  const { page, server } = await play(t, { files: { 'line/line.rego': rule('hub := input.linkedHubs[0]') } })
  const focused = () => page.evaluate(() => document.activeElement.closest('.pane')?.id)
  for (const [key, id] of [['Alt+1', 'pane-files'], ['Alt+2', 'pane-editor'], ['Alt+3', 'pane-request'], ['Alt+4', 'pane-answer'], ['Alt+5', 'pane-prove'], ['Alt+2', 'pane-editor']]) {
    await page.keyboard.press(key)
    await page.waitForFunction((wanted) => document.activeElement.closest('.pane')?.id === wanted, id)
  }
  await page.keyboard.press('Alt+1')
  await page.waitForFunction(() => document.activeElement.closest('.pane')?.id === 'pane-files')
  while (!(await page.evaluate(() => document.activeElement.title)).startsWith('line/line.rego')) await page.keyboard.press('Tab')
  await page.keyboard.press('Enter')
  await has(page.locator('#pane-editor .path'), 'line/line.rego')
  await page.keyboard.press('F6')
  await page.waitForFunction(() => document.activeElement.classList.contains('cm-content'))
  await page.keyboard.press('Control+End')
  await page.keyboard.type('# by the keyboard')
  await page.keyboard.press('ControlOrMeta+s')
  await has(page.locator('.notice'), 'is saved')
  assert.match(server.read('line/line.rego'), /# by the keyboard/)
  await page.keyboard.press('Escape')
  await page.keyboard.press('Tab') // leaves the editor, which otherwise takes Tab
  assert.equal(await page.evaluate(() => document.activeElement.classList.contains('cm-content')), false)
  await page.keyboard.press('F6')
  assert.notEqual(await focused(), undefined)
  await page.keyboard.press('Alt+4')
  await page.waitForFunction(() => document.activeElement.closest('.pane')?.id === 'pane-answer')
  await page.keyboard.press('?')
  await page.getByRole('dialog', { name: 'Keys' }).waitFor()
  await page.keyboard.press('Escape')
  await page.getByRole('dialog', { name: 'Keys' }).waitFor({ state: 'detached' })
})
