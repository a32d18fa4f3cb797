/** Payment card numbers, in one piece or grouped: an issuer's range, its length, and the check digit (Luhn). */
import type { PiiPattern, Span } from './pii-pattern.js'

const MIN_DIGITS = 12
const MAX_DIGITS = 19

/** Ranges of the large networks: Visa, Mastercard, American Express, Diners, Discover, JCB, UnionPay, Maestro. */
const ISSUERS: readonly RegExp[] = [
	/^4(?:\d{12}|\d{15}|\d{18})$/,
	/^5[1-5]\d{14}$/,
	/^2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}$/,
	/^3[47]\d{13}$/,
	/^3(?:0[0-5]|[689]\d)\d{11,16}$/,
	/^6(?:011|4[4-9]\d|5\d\d)\d{12,15}$/,
	/^35(?:2[89]|[3-8]\d)\d{12,15}$/,
	/^62\d{14,17}$/,
	/^(?:50|5[6-9]|6[37])\d{10,17}$/,
]

/** Digits in groups, one space or dash between two groups; not the end of a word or of a decimal fraction. */
const DIGIT_RUN = /(?<![\p{L}\p{N}])(?<!\d[.,])\d+(?:[ -]\d+)*/gu

export const card: PiiPattern = {
	kind: 'card',
	find: (folded) =>
		Array.from(folded.matchAll(DIGIT_RUN)).flatMap((match) => cardsInRun(match[0], match.index, folded)),
}

/** A run may hold more than the card ("4111 1111 1111 1111 12/27"), so every stretch of whole groups is tried. */
function cardsInRun(run: string, offset: number, folded: string): Span[] {
	const groups = Array.from(run.matchAll(/\d+/g), (group) => ({
		digits: group[0],
		start: offset + group.index,
	}))
	const spans: Span[] = []
	for (let first = 0; first < groups.length; first++) {
		let digits = ''
		let found: { end: number; last: number } | undefined
		for (let last = first; last < groups.length; last++) {
			const group = groups[last]
			if (!group) break
			digits += group.digits
			if (digits.length > MAX_DIGITS) break
			const end = group.start + group.digits.length
			if (
				digits.length >= MIN_DIGITS &&
				isCardNumber(digits) &&
				!/^[\p{L}]/u.test(folded.slice(end, end + 2))
			)
				found = { end, last }
		}
		const start = groups[first]?.start
		if (!found || start === undefined) continue
		spans.push({ start, end: found.end })
		first = found.last
	}
	return spans
}

export function isCardNumber(digits: string): boolean {
	return ISSUERS.some((issuer) => issuer.test(digits)) && passesLuhn(digits)
}

/** The check that most number schemes of payment cards use: the last digit makes the weighted sum a multiple of 10. */
export function passesLuhn(digits: string): boolean {
	let sum = 0
	for (let i = 0; i < digits.length; i++) {
		const digit = Number(digits[digits.length - 1 - i])
		const weighted = i % 2 === 1 ? digit * 2 : digit
		sum += weighted > 9 ? weighted - 9 : weighted
	}
	return digits.length > 0 && sum % 10 === 0
}
