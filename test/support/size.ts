/**
 * How much a test does: little in `npm test`, all of it in `npm run test:full`, which sets FULL=1. A variable of its own
 * (`FUZZ_REQUESTS=20000`) beats both.
 */

/**
 * Whether everything runs at full size.
 * @public
 */
export const isFull = process.env['FULL'] === '1'

/** @param variable sets the size by hand */
export function testSize(variable: string, sizes: { readonly small: number; readonly full: number }): number {
	const given = process.env[variable]
	if (given === undefined || given === '') return isFull ? sizes.full : sizes.small
	const size = Number(given)
	if (!Number.isSafeInteger(size) || size < 1)
		throw new Error(`${variable} must be a whole number from 1, not '${given}'`)
	return size
}
