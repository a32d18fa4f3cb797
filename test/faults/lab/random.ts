/** Chance that can be repeated: the same seed, the same choices. */
export interface Random {
	/** From 0 up to, and without, 1. */
	next(): number
	/** A whole number from `min` to `max`, both included. */
	between(min: number, max: number): number
	pick<T>(from: readonly T[]): T
	shuffle<T>(list: readonly T[]): T[]
}

/** Mulberry32: small, and good enough to choose faults with. */
export function createRandom(seed: number): Random {
	let state = seed >>> 0
	const random: Random = {
		next() {
			state = (state + 0x6d2b79f5) >>> 0
			let mixed = Math.imul(state ^ (state >>> 15), state | 1)
			mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
			return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
		},
		between: (min, max) => min + Math.floor(random.next() * (max - min + 1)),
		pick<T>(from: readonly T[]) {
			if (from.length === 0) throw new Error('There is nothing to pick from')
			return from[random.between(0, from.length - 1)] as T
		},
		shuffle<T>(list: readonly T[]) {
			const shuffled = [...list]
			for (let last = shuffled.length - 1; last > 0; last -= 1) {
				const other = random.between(0, last)
				;[shuffled[last], shuffled[other]] = [shuffled[other] as T, shuffled[last] as T]
			}
			return shuffled
		},
	}
	return random
}
