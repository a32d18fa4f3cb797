/**
 * Writes functions/openapi.json, the API as committed: `tsx functions/openapi.generate.ts`. With `--check` it writes
 * nothing and fails if the file is not what the routes say.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { answerArguments } from '../src/arguments.js'
import { createDatabase } from '../src/db/client.js'
import { createApp } from './app.js'

const FILE = new URL('openapi.json', import.meta.url)

const isCheck = process.argv.slice(2).join(' ') === '--check'
if (!isCheck)
	answerArguments(
		process,
		`Writes functions/openapi.json, the API as the routes say it.

  npm run openapi:generate

With --check it writes nothing and fails if the file is not what the routes say; npm run check does that.`,
	)

// Asking for the document opens no connection.
const app = createApp({ db: createDatabase('postgres://localhost/none') })
const document: unknown = await (await app.request('/openapi.json')).json()

if (isCheck) {
	// Compared as values: how the file is laid out is the formatter's business.
	const committed: unknown = JSON.parse(readFileSync(FILE, 'utf8'))
	if (JSON.stringify(committed) !== JSON.stringify(document)) {
		console.error('functions/openapi.json is not what the routes say: run npm run openapi:generate.')
		process.exit(1)
	}
	console.log('functions/openapi.json is up to date.')
} else {
	writeFileSync(FILE, `${JSON.stringify(document, null, '\t')}\n`)
	// Here and not in the script behind it, where it would get the arguments that are meant for this program.
	const { status } = spawnSync('npx', ['oxfmt', fileURLToPath(FILE)], { stdio: 'inherit' })
	process.exitCode = status ?? 1
}
