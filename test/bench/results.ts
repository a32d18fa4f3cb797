/** What was measured, by name. */
import { median, type Summary, summarize } from './statistics.js'

export interface Measurement extends Summary {
	readonly name: string
	readonly unit: string
	/** One per repetition, in their order. */
	readonly samples: readonly number[]
}

export class Results {
	readonly #samples = new Map<string, { readonly unit: string; readonly samples: number[] }>()
	readonly #onSample: (name: string, value: number, unit: string) => void

	constructor(onSample: (name: string, value: number, unit: string) => void = () => {}) {
		this.#onSample = onSample
	}

	add(name: string, value: number, unit: string): void {
		const known = this.#samples.get(name)
		if (known === undefined) this.#samples.set(name, { unit, samples: [value] })
		else known.samples.push(value)
		this.#onSample(name, value, unit)
	}

	/** Of the latest repetition. */
	last(name: string): number {
		return this.#samples.get(name)?.samples.at(-1) ?? Number.NaN
	}

	/** The median; undefined if it was not measured. */
	value(name: string): number | undefined {
		const known = this.#samples.get(name)
		return known === undefined ? undefined : median(known.samples)
	}

	/** The median over the repetitions of one figure divided by another of the same repetition; noise hits both alike. */
	ratio(numerator: string, denominator: string): number | undefined {
		const above = this.#samples.get(numerator)?.samples
		const below = this.#samples.get(denominator)?.samples
		if (above === undefined || below === undefined) return undefined
		const ratios = above.flatMap((value, repetition) => {
			const divisor = below[repetition]
			return divisor === undefined ? [] : [value / divisor]
		})
		return median(ratios)
	}

	all(): Measurement[] {
		return [...this.#samples].map(([name, { unit, samples }]) => ({
			name,
			unit,
			...summarize(samples),
			samples,
		}))
	}
}
