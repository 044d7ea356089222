// Makes dist from src: node build.mjs [FOLDER]. The same sources and packages give the same bytes.
import { build } from 'esbuild'
import { copyFileSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const out = resolve(process.argv[2] ?? join(here, 'dist'))
mkdirSync(out, { recursive: true })

const { metafile } = await build({
  absWorkingDir: here,
  entryPoints: { page: 'src/main.jsx' },
  outdir: out,
  bundle: true,
  minify: true,
  metafile: true,
  format: 'esm',
  target: ['chrome111', 'firefox115', 'safari16.4'],
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'none', // licences.txt has them
  charset: 'utf8',
  logLevel: 'warning'
})
copyFileSync(join(here, 'src', 'index.html'), join(out, 'index.html'))

// The licences of what is in the page ask for their text to go with it.
const folders = Object.keys(metafile.inputs).map((name) => name.match(/node_modules\/((?:@[^/]+\/)?[^/]+)\//)?.[1]).filter(Boolean)
const licences = [...new Set(folders)].sort().map((name) => {
  const folder = join(here, 'node_modules', name)
  const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry))
  if (!file) throw new Error(`${name} has no file with its licence`)
  const { version } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  return `${name} ${version}\n\n${readFileSync(join(folder, file), 'utf8').trim()}\n`
})
writeFileSync(join(out, 'licences.txt'), licences.join(`\n${'-'.repeat(72)}\n\n`))
