/**
 * Writes functions/openapi.json, the API as committed: `tsx functions/openapi.generate.ts`. With `--check` it writes
 * nothing and fails if the file is not what the routes say.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { createDatabase } from '../src/db/client.js'
import { createApp } from './app.js'

const FILE = new URL('openapi.json', import.meta.url)

// Asking for the document opens no connection.
const app = createApp({ db: createDatabase('postgres://localhost/none') })
const document: unknown = await (await app.request('/openapi.json')).json()

if (process.argv.includes('--check')) {
	// Compared as values: how the file is laid out is the formatter's business.
	const committed: unknown = JSON.parse(readFileSync(FILE, 'utf8'))
	if (JSON.stringify(committed) !== JSON.stringify(document)) {
		console.error('functions/openapi.json is not what the routes say: run npm run openapi:generate.')
		process.exit(1)
	}
	console.log('functions/openapi.json is up to date.')
} else {
	writeFileSync(FILE, `${JSON.stringify(document, null, '\t')}\n`)
}
