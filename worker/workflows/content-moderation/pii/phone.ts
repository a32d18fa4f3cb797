/**
 * Phone numbers: international (`+…`, `00…`), North American, and national ones with a trunk zero, spaced, dashed,
 * dotted or in parentheses. A bare run of digits is a phone number only where a word such as "call" says so, and a
 * number that is introduced as something else ("order no.", "ticket") is not one. Demo-grade: a real system would
 * use a numbering-plan library.
 */
import type { PiiPattern, Span } from './pii-pattern.js'

const BEFORE = String.raw`(?<![\p{L}\p{N}+])(?<!\p{N}[-./])`
/** A leading zero is weak evidence: further groups of digits before it make it part of something longer. */
const NO_DIGITS_BEFORE = String.raw`(?<!\p{N} )`
const AFTER = String.raw`(?![\p{L}\p{N}])(?![-./]\p{N})`
const SEPARATOR = String.raw`(?:[ .\-/]|\)[ \-]?| ?\(| - )`
const EXTENSION = String.raw`(?: ?(?:x|ext\.?) ?\d{1,5})?`

interface Form {
	readonly pattern: RegExp
	/** Judged on the digits alone. */
	readonly accepts: (digits: string, match: string) => boolean
}

const FORMS: readonly Form[] = [
	{
		// +44 20 7946 0958, +1 (212) 555-0123, +49 (0)30 1234567
		pattern: form(String.raw`\+\(?[1-9]\d{0,14}(?:${SEPARATOR}\d{1,14}){0,7}`),
		accepts: (digits) => (digits.startsWith('1') ? /^1[2-9]\d{9}$/.test(digits) : between(digits, 8, 16)),
	},
	{
		// 0049 30 1234567
		pattern: form(String.raw`${NO_DIGITS_BEFORE}00[1-9]\d{0,2}(?:${SEPARATOR}\d{1,12}){1,7}`),
		accepts: (digits) => between(digits, 10, 18),
	},
	{
		// (212) 555-0123, 212-555-0123, 1.212.555.0123
		pattern: form(
			String.raw`(?:1[ .\-])?(?:\([2-9]\d{2}\) ?-?|[2-9]\d{2}[ .\-/])[2-9]\d{2}[ .\-]\d{4}${EXTENSION}`,
		),
		accepts: () => true,
	},
	{
		// 020 7946 0958, (030) 1234567, 06 12 34 56 78
		pattern: form(String.raw`${NO_DIGITS_BEFORE}\(?0[1-9]\d{0,3}(?:${SEPARATOR}\d{2,8}){1,5}`),
		accepts: (digits, match) => between(digits, 9, 12) && !/^\d{1,2}([-./])\d{1,2}\1\d{2,4}/.test(match),
	},
	{
		// call 2125550123, text me: 555-0123
		pattern: new RegExp(
			String.raw`(?<=(?<![\p{L}\p{N}])(?:call|phone|tel|telephone|text|sms|whatsapp|mobile|cell|dial|ring)(?![\p{L}\p{N}])[^\p{N}\n\[\]+(]{0,16})` +
				String.raw`${BEFORE}\(?\d{2,15}(?:${SEPARATOR}\d{2,8}){0,4}${AFTER}`,
			'giu',
		),
		accepts: (digits, match) => between(digits, 7, 15) && !/^\d{1,4}([-./])\d{1,2}\1\d{1,4}$/.test(match),
	},
]

/** What comes directly before a number that is not a phone number. "order" alone is not enough: "to order, 212-…". */
const OTHER_NUMBER =
	/(?<![\p{L}\p{N}])(?:(?:invoice|ticket|tracking|serial|sku|isbn|ref|reference)(?: ?(?:#|no\.?|nr\.?|number|id|code))?|(?:order|case|part|model) ?(?:#|no\.?|nr\.?|number|id|code))[ :]{0,3}$|#$/iu
const LONGEST_INTRODUCTION = 32

export const phone: PiiPattern = {
	kind: 'phone',
	find(folded) {
		const spans: Span[] = []
		for (const { pattern, accepts } of FORMS) {
			for (const match of folded.matchAll(pattern)) {
				if (OTHER_NUMBER.test(introduction(folded, match.index))) continue
				const length = acceptedLength(match[0], accepts)
				if (length > 0) spans.push({ start: match.index, end: match.index + length })
			}
		}
		return spans
	},
}

/** A number may be followed by other digits ("… 0958 12 people"): groups are dropped from the end until it fits. */
function acceptedLength(match: string, accepts: Form['accepts']): number {
	let candidate = match
	while (candidate) {
		const withoutExtension = candidate.replace(/ ?(?:x|ext).*$/i, '')
		if (accepts(withoutExtension.replace(/\D/g, ''), candidate)) return candidate.length
		candidate = candidate.replace(/(?:^|\D+)\d+$/, '')
	}
	return 0
}

function form(pattern: string): RegExp {
	return new RegExp(`${BEFORE}${pattern}${AFTER}`, 'giu')
}

/** The words before `start`, no further back than the last bracket. */
function introduction(folded: string, start: number): string {
	return folded.slice(Math.max(0, start - LONGEST_INTRODUCTION), start).replace(/^.*[[\]]/s, ']')
}

function between(digits: string, least: number, most: number): boolean {
	return digits.length >= least && digits.length <= most
}
