/**
 * Finds personal data by its shape. Demo-grade: it knows e-mail addresses, phone, card and account numbers, and
 * neither names nor postal addresses.
 */
import type { PiiDetector, PiiFinding } from '../detectors.js'
import { fold } from '../text.js'
import { card } from './card.js'
import { email } from './email.js'
import { iban } from './iban.js'
import { phone } from './phone.js'
import type { PiiPattern } from './pii-pattern.js'

/** In order of precedence: what an earlier one has claimed, a later one does not see. */
const PATTERNS: readonly PiiPattern[] = [email, iban, card, phone]

/** An honest post needs two or three looks. */
const MOST_LOOKS = 16

export function createPatternPiiDetector(): PiiDetector {
	return { detect: async (text) => findPii(text) }
}

/**
 * Blanks what it has found and looks again, until nothing is left: a number may only stand out once its neighbour
 * is gone. So what remains after redaction has been searched too, and is clean. A line woven so that every look
 * uncovers a little more is given up as a whole; no pattern reaches beyond its line.
 */
export function findPii(text: string): PiiFinding[] {
	const findings: PiiFinding[] = []
	let remaining = text
	for (let looks = 1; ; looks++) {
		const fresh: PiiFinding[] = []
		for (const pattern of PATTERNS) {
			const found = locate(pattern, remaining)
			remaining = blank(remaining, found)
			fresh.push(...found)
		}
		if (fresh.length === 0) return inOrder(findings)
		findings.push(...fresh)
		if (looks === MOST_LOOKS) return inOrder(giveUpLines(text, findings, fresh))
	}
}

/** Replaces whatever was found on the lines of `fresh` by one finding for each of these lines. */
function giveUpLines(
	text: string,
	findings: readonly PiiFinding[],
	fresh: readonly PiiFinding[],
): PiiFinding[] {
	const lines = new Map<number, PiiFinding>()
	for (const { start } of fresh) {
		const lineStart = text.lastIndexOf('\n', start) + 1
		const lineEnd = text.indexOf('\n', start)
		lines.set(lineStart, { kind: 'other', start: lineStart, end: lineEnd < 0 ? text.length : lineEnd })
	}
	const onOtherLines = findings.filter(({ start }) => !lines.has(text.lastIndexOf('\n', start) + 1))
	return [...onOtherLines, ...lines.values()]
}

function inOrder(findings: PiiFinding[]): PiiFinding[] {
	return findings.sort((one, other) => one.start - other.start)
}

/** In the order of the text; of two that overlap, the one that begins first. */
function locate(pattern: PiiPattern, text: string): PiiFinding[] {
	const folded = fold(text)
	const found: PiiFinding[] = []
	for (const span of pattern.find(folded.text).sort((one, other) => one.start - other.start)) {
		const start = folded.startOf(span.start)
		if (start >= (found.at(-1)?.end ?? 0))
			found.push({ kind: pattern.kind, start, end: folded.endOf(span.end - 1) })
	}
	return found
}

/** Brackets, which no pattern matches, so that offsets stay and the rest looks as it will beside a label. */
function blank(text: string, findings: readonly PiiFinding[]): string {
	let blanked = ''
	let position = 0
	for (const { start, end } of findings) {
		blanked += text.slice(position, start) + ']'.repeat(end - start)
		position = end
	}
	return blanked + text.slice(position)
}
