/** What is printed at the end, and what is kept. Pure. */
import type { Verdict } from './comparisons.js'
import type { CostPerNode } from './costs.js'
import type { Measurement } from './results.js'
import { formatNumber, table } from './table.js'

export interface Report {
	readonly node: string
	readonly machine: { readonly cpus: number; readonly model: string; readonly memoryBytes: number }
	readonly servers: Readonly<Record<string, string>>
	readonly repetitions: number
	readonly isQuick: boolean
	readonly measurements: readonly Measurement[]
	readonly comparisons: readonly Verdict[]
	readonly costs: Readonly<Record<string, CostPerNode>>
}

export function printable(report: Report): string {
	const parts = [measurementsOf(report)]
	if (Object.keys(report.costs).length > 0) parts.push(costsOf(report))
	const judged = report.comparisons.filter(({ isReached }) => isReached !== undefined)
	const others = report.comparisons.filter(({ isReached }) => isReached === undefined)
	if (judged.length > 0) parts.push(goalsOf(judged))
	if (others.length > 0)
		parts.push(
			table(
				['Further ratios', ''],
				others.map(({ name, value }) => [name, `${formatNumber(value)}×`]),
			),
		)
	if (report.isQuick) parts.push('Small sizes (--quick): good for finding what is broken, not for figures.')
	return parts.join('\n\n')
}

function measurementsOf({ measurements, repetitions }: Report): string {
	return table(
		[`Median of ${repetitions}`, '', 'unit', 'min – max'],
		measurements.map(({ name, median, unit, min, max, samples }) => [
			name,
			formatNumber(median),
			unit,
			samples.length > 1 ? `${formatNumber(min)} – ${formatNumber(max)}` : '',
		]),
	)
}

function costsOf({ costs }: Report): string {
	const programs = [...new Set(Object.values(costs).flatMap(({ cpuMs }) => Object.keys(cpuMs)))]
	return table(
		['Cost of a node', 'statements', 'WAL bytes', 'messages', ...programs.map((each) => `${each} ms`)],
		Object.entries(costs).map(([name, cost]) => [
			name,
			formatNumber(cost.statements),
			formatNumber(cost.walBytes),
			formatNumber(cost.messages),
			...programs.map((program) => formatNumber(cost.cpuMs[program] ?? Number.NaN)),
		]),
	)
}

function goalsOf(verdicts: readonly Verdict[]): string {
	const missed = verdicts.filter(({ isReached }) => isReached === false)
	const goals = table(
		['Must reach', 'is', 'goal', ''],
		verdicts.map(({ name, value, against, atLeast, atMost, isReached }) => {
			const unit = against === undefined ? '' : '×'
			return [
				name,
				`${formatNumber(value)}${unit}`,
				atLeast === undefined ? `≤ ${atMost}${unit}` : `≥ ${atLeast}${unit}`,
				isReached === true ? 'reached' : 'NOT REACHED',
			]
		}),
	)
	return `${goals}\n${verdicts.length - missed.length} of ${verdicts.length} reached.`
}
