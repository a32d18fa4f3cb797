/**
 * Generations: how often each loop around a node has turned, outermost first. Stored as text that sorts as the numbers
 * do: each number is a letter for its count of digits, then the digits (`a7`, `b12`); zeros at the end are dropped, so
 * that everything outside loops, and the first turn of every loop, is ''.
 */

/** The stored form of one number per enclosing loop. */
export function encodeGeneration(turns: readonly number[]): string {
	let length = turns.length
	while (length > 0 && turns[length - 1] === 0) length -= 1
	return encodePrefix(turns.slice(0, length))
}

/** As `encodeGeneration`, zeros at the end included: what the generations within an outer turn begin with. */
export function encodePrefix(turns: readonly number[]): string {
	return turns
		.map((turn) => {
			const digits = String(turn)
			return `${String.fromCharCode(96 + digits.length)}${digits}`
		})
		.join('')
}

/** For people: `2.5` is the fifth repetition of the inner loop in the second one of the outer loop; `0` outside loops. */
export const showGeneration = (text: string): string => decodeGeneration(text, 1).join('.')

/** One number per enclosing loop of a node that is `depth` loops deep. */
export function decodeGeneration(text: string, depth: number): number[] {
	const turns = [...text.matchAll(/[a-p](\d+)/g)].map(([, digits]) => Number(digits))
	while (turns.length < depth) turns.push(0)
	return turns
}
