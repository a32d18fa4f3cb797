import { build } from 'esbuild'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { PROJECT_ROOT } from '../support/process.js'

test('the client is small, and holds nothing but itself', async () => {
	const { metafile, outputFiles } = await build({
		absWorkingDir: PROJECT_ROOT,
		entryPoints: ['src/client/index.ts'],
		bundle: true,
		write: false,
		metafile: true,
		minify: true,
		format: 'esm',
		platform: 'neutral',
		logLevel: 'silent',
	})
	const gzipBytes = outputFiles.reduce((total, file) => total + gzipSync(file.contents).byteLength, 0)
	console.log(`src/client/index.ts: ${(gzipBytes / 1024).toFixed(1)} KiB gzipped`)
	expect(Object.keys(metafile.inputs).filter((file) => !file.startsWith('src/client/'))).toEqual([])
	expect(Object.values(metafile.outputs).flatMap(({ imports }) => imports)).toEqual([])
	expect(gzipBytes).toBeLessThan(6 * 1024)
})
