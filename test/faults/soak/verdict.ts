/** What a soak has shown, and the table that tells it. */
import type { ReportCounts } from '../lab/checker.js'
import type { EffectsReport } from '../lab/effects.js'

export interface Verdict {
	readonly seed: number
	readonly seconds: number
	/** All runs, children included, by status. */
	readonly statuses: ReadonlyMap<string, number>
	readonly counts: ReportCounts
	/** Batches of starts that nobody accepted within a minute. */
	readonly refusedStarts: number
	readonly effects: EffectsReport
	readonly faults: ReadonlyMap<string, number>
	readonly violations: readonly string[]
}

/** Violations by what they break; the last takes what no other one does. */
const KINDS: readonly (readonly [name: string, pattern: RegExp])[] = [
	['lost runs', /is lost|not everything has ended|is (running|awaiting|paused), not/],
	['double or foreign effects', /effect|foreign output/],
	['lost or doubled joins', /\bjoin\b/],
	['unexplained executions', /for no reason|no execution of it/],
	['wrong ends', /is (failed|cancelled|completed), not|has finished node|runs completed/],
	['wrong counters', /_count|live nodes|failed nodes|but nothing of it is live/],
	['leftovers', /left over|which is gone|has its lease still|has a row in the outbox/],
	['others', /(?:)/],
]

function violationsByKind(violations: readonly string[]): Map<string, string[]> {
	const byKind = new Map(KINDS.map(([name]) => [name, [] as string[]]))
	for (const violation of violations) {
		const kind = KINDS.find(([, pattern]) => pattern.test(violation))?.[0] ?? 'others'
		byKind.get(kind)?.push(violation)
	}
	return byKind
}

const SHOWN_VIOLATIONS = 20

export function verdictTable(verdict: Verdict): string {
	const { counts, statuses, effects, faults, violations } = verdict
	const { attempts, crashes, givenBack, lostClaims } = counts.repeated
	const strikes = [...faults.values()].reduce((sum, count) => sum + count, 0)
	const rows: (readonly [string, string | number])[] = [
		['seed', verdict.seed],
		['seconds', Math.round(verdict.seconds)],
		['runs accepted', counts.accepted],
		['runs, children included', counts.runs],
		...[...statuses].map(([status, runs]) => [`  ${status}`, runs] as const),
		['nodes finished', counts.finishedNodes],
		['joins fired', counts.joins],
		['effects, each once', effects.events],
		['  messages that repeated one', effects.repeats],
		['rows written through onCommit, each once', counts.bookings],
		['executions', counts.executions],
		['  beyond one, after a failed attempt', attempts],
		['  beyond one, after a crash', crashes],
		['  beyond one, given back by its worker', givenBack],
		['  beyond one, claim lost with Postgres', lostClaims],
		['batches of starts that nobody accepted', verdict.refusedStarts],
		['faults', strikes],
		...[...faults]
			.toSorted(([a], [b]) => a.localeCompare(b))
			.map(([name, count]) => [`  ${name}`, count] as const),
		['violations', violations.length],
		...[...violationsByKind(violations)].map(([kind, found]) => [`  ${kind}`, found.length] as const),
	]
	const width = Math.max(...rows.map(([name]) => name.length))
	return [
		...rows.map(([name, value]) => `${name.padEnd(width)}  ${String(value).padStart(7)}`),
		...violations.slice(0, SHOWN_VIOLATIONS).map((violation) => `! ${violation}`),
		...(violations.length > SHOWN_VIOLATIONS
			? [`! and ${violations.length - SHOWN_VIOLATIONS} more`]
			: []),
		violations.length === 0 ? 'SOUND' : 'NOT SOUND',
	].join('\n')
}
