/**
 * Part of `npm run check`: the migrations say what the schema and `src/db/sql` say, and none would be skipped.
 * Drizzle applies a migration only if its timestamp is newer than the last applied one, so a journal that is not
 * monotonic (two branches merged) silently loses migrations.
 */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, relative } from 'node:path'
import { z } from 'zod'
import { changedSources, MIGRATIONS_DIR } from './sources.js'

const problems: string[] = []

const journal = z
	.object({ entries: z.array(z.object({ tag: z.string(), when: z.number(), idx: z.number() })) })
	.parse(JSON.parse(readFileSync(join(MIGRATIONS_DIR, 'meta', '_journal.json'), 'utf8')))
journal.entries.forEach((entry, position) => {
	const previous = journal.entries[position - 1]
	if (previous !== undefined && entry.when <= previous.when) {
		problems.push(
			`Migration ${entry.tag} is older than ${previous.tag}, which stands before it: it would be skipped. Generate it again.`,
		)
	}
	if (entry.idx !== position)
		problems.push(`Migration ${entry.tag} has number ${entry.idx} at place ${position}.`)
})

for (const { file } of changedSources()) {
	problems.push(`src/db/sql/${file} differs from what the migrations install: run npm run db:generate.`)
}

const check = spawnSync('npx', ['drizzle-kit', 'check'], { encoding: 'utf8' })
if (check.status !== 0) problems.push(`drizzle-kit check: ${check.stdout}${check.stderr}`)

// The schema itself: generating into a copy must find nothing to do.
const copy = mkdtempSync(join(tmpdir(), 'flowcraft-migrations-'))
try {
	cpSync(MIGRATIONS_DIR, copy, { recursive: true })
	const before = readdirSync(copy).length
	const generate = spawnSync(
		'npx',
		[
			'drizzle-kit',
			'generate',
			'--dialect=postgresql',
			'--schema=src/db/schema.ts',
			'--casing=snake_case',
			`--out=${relative(process.cwd(), copy)}`,
		],
		{ encoding: 'utf8' },
	)
	if (generate.status !== 0) problems.push(`drizzle-kit generate: ${generate.stdout}${generate.stderr}`)
	else if (readdirSync(copy).length !== before) {
		problems.push('src/db/schema.ts differs from what the migrations create: run npm run db:generate.')
	}
} finally {
	rmSync(copy, { recursive: true, force: true })
}

if (problems.length > 0) {
	console.error(problems.join('\n'))
	process.exit(1)
}
console.log(`Migrations: ${journal.entries.length}, in order and up to date.`)
