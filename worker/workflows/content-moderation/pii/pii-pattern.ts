/** What one kind of personal data looks like in folded text. Each kind is a file of its own beside this one. */
import type { PiiKind } from '../detectors.js'

/** A range of folded text, `end` exclusive. */
export interface Span {
	readonly start: number
	readonly end: number
}

/**
 * A pattern must not match square brackets, nor look past one when it judges what surrounds a match. So a label
 * such as `[email]` separates texts cleanly, and redacting one finding never uncovers or creates another one
 * that detection has not seen.
 */
export interface PiiPattern {
	readonly kind: PiiKind
	find(folded: string): Span[]
}
