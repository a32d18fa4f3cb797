/**
 * `npm run test:mutation`: takes each guard of the engine away in turn, on a copy of the project, and shows that the
 * tests that are said to notice do fail. A guard that can go without a test failing is not guarded.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { exitCodeFor, UsageError } from '../../worker/command-line.js'
import { createSuite } from '../support/services/suite.js'
import type { Guard } from './guard.js'
import { missingTests, StalePatchError, withoutGuard } from './guard.js'
import { guards } from './guards/index.js'
import { copyCheckout, type Tree } from './tree.js'
import { noticing, runTests, type Verdict } from './verdict.js'

const HELP = `npm run test:mutation -- [options]

Removes each guard in turn and shows that the tests that are said to notice fail.

  --only NAME      this guard only; may be given several times
  --list           name the guards, what they keep from happening and who notices, and end
  --markdown       the same as the table in ARCHITECTURE.md, and end
  --survey         run the named files whole, and tell every test that fails without the guard
  --workers N      copies of the project to work on at once (default 2)
  --deadline S     for the tests of one guard, in seconds (default 180)
  --help           this text

TEST_DATABASE_URL, TEST_RABBITMQ_URL and TEST_REDIS_URL name servers to use; without them private ones are started.
Ends with 0 if every guard was noticed by every test that is named for it, with 1 otherwise.`

interface Result {
	readonly guard: Guard
	readonly outcome: 'noticed' | 'SURVIVED' | 'BROKEN' | 'STALE'
	/** What to look at. */
	readonly detail: string
	readonly seconds: number
}

async function main(): Promise<number> {
	const { values: flags } = parseArgs({
		options: {
			only: { type: 'string', multiple: true, default: [] },
			list: { type: 'boolean', default: false },
			markdown: { type: 'boolean', default: false },
			survey: { type: 'boolean', default: false },
			workers: { type: 'string', default: '2' },
			deadline: { type: 'string', default: '180' },
			help: { type: 'boolean', default: false },
		},
	})
	if (flags.help) return say(HELP)
	const unknown = flags.only.filter((name) => !guards.some((guard) => guard.name === name))
	if (unknown.length > 0) throw new UsageError(`There is no guard ${unknown.join(', ')}`)
	const chosen = flags.only.length === 0 ? guards : guards.filter(({ name }) => flags.only.includes(name))
	if (flags.list) return say(chosen.map(described).join('\n'))
	if (flags.markdown) return say(markdownTable(chosen))
	const workers = positive('--workers', flags.workers)
	const deadlineMs = positive('--deadline', flags.deadline) * 1000

	const begin = performance.now()
	const whole = copyCheckout()
	const { fit, results } = checked(chosen, whole.root)
	const servers = await startServers(fit, whole.root)
	try {
		const files = [...new Set(fit.flatMap((guard) => guard.noticedBy.map(([file]) => file)))]
		const titles = [...new Set(fit.flatMap((guard) => guard.noticedBy.map(([, title]) => title)))]
		say(`With all guards: ${titles.length} tests of ${files.length} files …`)
		const green = await runTests({
			root: whole.root,
			files,
			titles,
			env: servers.env,
			deadlineMs: deadlineMs * 5,
			workers,
		})
		const faults = faultsOfWhole(green, fit)
		if (faults.length > 0)
			throw new Error(`Not green before any guard was removed:\n${faults.join('\n')}`)
		say(`… pass in ${green.seconds.toFixed(0)} s.`)

		const queue = [...fit]
		const work = async (tree: Tree): Promise<void> => {
			for (let guard = queue.shift(); guard !== undefined; guard = queue.shift()) {
				const result = await withoutIt(guard, tree, {
					env: servers.env,
					deadlineMs,
					survey: flags.survey,
				})
				results.push(result)
				const place = `[${results.length}/${chosen.length}]`
				say(
					`${place} ${guard.name}: ${result.outcome}, ${result.seconds.toFixed(1)} s${indented(result.detail)}`,
				)
			}
		}
		await Promise.all(Array.from({ length: Math.min(workers, fit.length) }, () => work(whole.copy())))
	} finally {
		await servers.stop()
	}
	summarize(results, (performance.now() - begin) / 1000)
	return results.every(({ outcome }) => outcome === 'noticed') ? 0 : 1
}

/** Before anything runs: a patch that no longer applies is told at once. */
function checked(chosen: readonly Guard[], root: string): { fit: Guard[]; results: Result[] } {
	const fit: Guard[] = []
	const results: Result[] = []
	for (const guard of chosen) {
		let detail = missingTests(root, guard).join('\n')
		try {
			withoutGuard(root, guard)
		} catch (error) {
			if (!(error instanceof StalePatchError)) throw error
			detail = `${error.message}\n${detail}`
		}
		if (detail === '') fit.push(guard)
		else {
			results.push({ guard, outcome: 'STALE', detail, seconds: 0 })
			say(`${guard.name}: STALE${indented(detail)}`)
		}
	}
	return { fit, results }
}

/** Started once for all guards: booting them again and again would take most of the time. */
async function startServers(
	chosen: readonly Guard[],
	root: string,
): Promise<{ env: Record<string, string>; stop(): Promise<void> }> {
	const suite = createSuite()
	const files = new Set(chosen.flatMap((guard) => guard.noticedBy.map(([file]) => file)))
	const source = [...files].map((file) => readFileSync(join(root, file), 'utf8')).join('\n')
	try {
		const [{ url: databaseUrl }, rabbitMq, redis] = await Promise.all([
			suite.postgres(),
			/\brabbitMq\(/.test(source) ? suite.rabbitMq() : undefined,
			/\bredis\(/.test(source) ? suite.redis() : undefined,
		])
		return {
			env: {
				TEST_DATABASE_URL: databaseUrl,
				...(rabbitMq === undefined ? {} : { TEST_RABBITMQ_URL: rabbitMq.url }),
				...(redis === undefined ? {} : { TEST_REDIS_URL: redis.url }),
			},
			stop: () => suite.close(),
		}
	} catch (error) {
		await suite.close()
		throw error
	}
}

function faultsOfWhole(whole: Verdict, chosen: readonly Guard[]): string[] {
	const faults = whole.tests
		.filter(({ status }) => status === 'failed')
		.map(({ file, title, message }) => `${file}: ${title}${indented(message)}`)
	if (whole.broken !== undefined && faults.length === 0) faults.push(whole.broken)
	for (const notice of chosen.flatMap((guard) => guard.noticedBy))
		if (noticing(whole, notice) === 'absent') faults.push(`${notice[0]}: "${notice[1]}" did not run`)
	return faults
}

async function withoutIt(
	guard: Guard,
	tree: Tree,
	options: {
		readonly env: Readonly<Record<string, string>>
		readonly deadlineMs: number
		readonly survey: boolean
	},
): Promise<Result> {
	const putBack = tree.remove(guard)
	try {
		const verdict = await runTests({
			root: tree.root,
			files: [...new Set(guard.noticedBy.map(([file]) => file))],
			titles: options.survey ? [] : guard.noticedBy.map(([, title]) => title),
			env: options.env,
			deadlineMs: options.deadlineMs,
			workers: 1,
		})
		const { seconds, broken } = verdict
		if (options.survey) {
			const failed = verdict.tests.filter(({ status }) => status === 'failed')
			const detail = failed.map(
				({ file, title, message }) => `${file}: ${title}\n  ${message.split('\n')[0]}`,
			)
			return {
				guard,
				outcome: broken === undefined ? (failed.length > 0 ? 'noticed' : 'SURVIVED') : 'BROKEN',
				detail: [...detail, ...(broken === undefined ? [] : [broken])].join('\n'),
				seconds,
			}
		}
		if (broken !== undefined) return { guard, outcome: 'BROKEN', detail: broken, seconds }
		const survived = guard.noticedBy.filter((notice) => noticing(verdict, notice) !== 'noticed')
		return survived.length === 0
			? { guard, outcome: 'noticed', detail: '', seconds }
			: {
					guard,
					outcome: 'SURVIVED',
					detail: survived
						.map(([file, title]) => `${file}: "${title}" passes without it`)
						.join('\n'),
					seconds,
				}
	} finally {
		putBack()
	}
}

const described = (guard: Guard): string =>
	[
		`${guard.name}: ${guard.keeps}`,
		...guard.edits.map(({ file }) => `  in ${file}`),
		...guard.noticedBy.map(([file, title]) => `  noticed by ${file}: "${title}"`),
	].join('\n')

function markdownTable(chosen: readonly Guard[]): string {
	return [
		'| guard | in | without it | noticed by |',
		'|---|---|---|---|',
		...chosen.map(({ name, keeps, edits, noticedBy }) => {
			const files = [...new Set(edits.map(({ file }) => `\`${file.split('/').at(-1)}\``))].join(', ')
			const tests = noticedBy.map(([file, title]) => `\`${file.replace(/^test\//, '')}\`: "${title}"`)
			return `| ${name} | ${files} | ${keeps} | ${tests.join('; ')} |`
		}),
	].join('\n')
}

function summarize(results: readonly Result[], seconds: number): void {
	say('')
	const width = Math.max(...results.map(({ guard }) => guard.name.length))
	for (const { guard, outcome, seconds: took } of results.toSorted((a, b) =>
		a.guard.name.localeCompare(b.guard.name),
	)) {
		const [[file, title] = ['', ''], ...others] = guard.noticedBy
		const more = others.length > 0 ? ` and ${others.length} more` : ''
		say(
			`${guard.name.padEnd(width)}  ${outcome.padEnd(8)}  ${took.toFixed(1).padStart(5)} s  ${file}: "${title}"${more}`,
		)
	}
	const count = (outcome: Result['outcome']): number =>
		results.filter((result) => result.outcome === outcome).length
	say(
		`\nGuards: ${results.length}, noticed ${count('noticed')}, survived ${count('SURVIVED')}, broken ${count('BROKEN')}, stale ${count('STALE')}; ${seconds.toFixed(0)} s`,
	)
}

const indented = (text: string): string =>
	text === '' ? '' : `\n${text.replaceAll(/^/gm, '    ').slice(0, 4_000)}`

function positive(flag: string, text: string): number {
	if (!/^[1-9]\d*$/.test(text))
		throw new UsageError(`${flag} must be a positive whole number, not "${text}"`)
	return Number(text)
}

function say(text: string): 0 {
	console.log(text)
	return 0
}

try {
	process.exitCode = await main()
} catch (error) {
	process.exitCode = exitCodeFor(error)
}
