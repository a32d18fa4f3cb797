/**
 * `npm run db:generate`: migrations for what has changed, first in the Drizzle schema, then in `src/db/sql`.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { exitCodeFor } from '../command-line.js'
import { changedSources, installationOf, MIGRATIONS_DIR } from './sources.js'

const HELP = `Writes migrations for what has changed in src/db/schema.ts and in src/db/sql.

  npm run db:generate

      --name <name>   of the migration for the schema (default: one that drizzle-kit makes up)
  -h, --help`

function drizzleKit(...args: string[]): void {
	const { status } = spawnSync('npx', ['drizzle-kit', ...args], { stdio: 'inherit' })
	if (status !== 0) process.exit(status ?? 1)
}

function readFlags(): { readonly name?: string | undefined } {
	try {
		const { values } = parseArgs({
			options: { name: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
		})
		if (values.help !== true) return values
		console.log(HELP)
		process.exit()
	} catch (error) {
		process.exit(exitCodeFor(error))
	}
}

const migrations = (): string[] =>
	existsSync(MIGRATIONS_DIR) ? readdirSync(MIGRATIONS_DIR).filter((file) => file.endsWith('.sql')) : []

const flags = readFlags()
drizzleKit('generate', ...(flags.name === undefined ? [] : [`--name=${flags.name}`]))

const changed = changedSources()
if (changed.length === 0) {
	console.log('Functions and views: nothing has changed.')
} else {
	const before = new Set(migrations())
	drizzleKit('generate', '--custom', '--name=functions')
	const created = migrations().find((file) => !before.has(file))
	if (created === undefined) throw new Error(`drizzle-kit created no migration in ${MIGRATIONS_DIR}`)
	writeFileSync(join(MIGRATIONS_DIR, created), installationOf(changed))
	console.log(`${created} installs ${changed.map(({ file }) => file).join(', ')}`)
}
