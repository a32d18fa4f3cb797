import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { VERSION } from '../../src/version.js'

test("the version that workers and the HTTP API show is the package's", () => {
	const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
		version: string
	}
	expect(VERSION).toBe(version)
	const { info } = JSON.parse(
		readFileSync(new URL('../../functions/openapi.json', import.meta.url), 'utf8'),
	) as { info: { version: string } }
	expect(info.version).toBe(version)
})
