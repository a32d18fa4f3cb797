/**
 * `npm run db:generate`: migrations for what has changed, first in the Drizzle schema, then in `src/db/sql`.
 */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { changedSources, installationOf, MIGRATIONS_DIR } from './sources.js'

function drizzleKit(...args: string[]): void {
	const { status } = spawnSync('npx', ['drizzle-kit', ...args], { stdio: 'inherit' })
	if (status !== 0) process.exit(status ?? 1)
}

const migrations = (): string[] =>
	existsSync(MIGRATIONS_DIR) ? readdirSync(MIGRATIONS_DIR).filter((file) => file.endsWith('.sql')) : []

drizzleKit('generate', ...process.argv.slice(2))

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
