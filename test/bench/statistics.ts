/** What repetitions come to. Pure. */

export interface Summary {
	readonly median: number
	readonly min: number
	readonly max: number
}

/** NaN for no samples: a figure that is missing must not look like one. */
export function median(samples: readonly number[]): number {
	const sorted = samples.toSorted((a, b) => a - b)
	const middle = sorted.length >> 1
	const upper = sorted[middle] ?? Number.NaN
	return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

/** The smallest sample that at least `share` (0 to 1) of all samples do not exceed. */
export function percentile(samples: readonly number[], share: number): number {
	const sorted = samples.toSorted((a, b) => a - b)
	return sorted[Math.max(Math.ceil(sorted.length * share) - 1, 0)] ?? Number.NaN
}

export const summarize = (samples: readonly number[]): Summary => ({
	median: median(samples),
	min: Math.min(...samples),
	max: Math.max(...samples),
})
