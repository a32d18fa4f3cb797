/** Replaces what was found with a label: `mail me at [email]`. A pure function of the post and its findings. */
import type { PiiFinding, PiiKind } from '../detectors.js'

const LABELS: Readonly<Record<PiiKind, string>> = {
	email: '[email]',
	phone: '[phone]',
	card: '[card]',
	iban: '[iban]',
	address: '[address]',
	other: '[personal data]',
}

/** Findings may come in any order; where two overlap, all that they cover goes, under the label of the first. */
export function redact(post: string, findings: readonly PiiFinding[]): string {
	let redacted = ''
	let position = 0
	for (const { kind, start, end } of [...findings].sort((one, other) => one.start - other.start)) {
		if (start >= position) redacted += post.slice(position, start) + LABELS[kind]
		position = Math.max(position, end)
	}
	return redacted + post.slice(position)
}

/** How often each kind was found: `{ email: 2, phone: 1 }`. */
export function countByKind(findings: readonly PiiFinding[]): Partial<Record<PiiKind, number>> {
	const counts: Partial<Record<PiiKind, number>> = {}
	for (const { kind } of findings) counts[kind] = (counts[kind] ?? 0) + 1
	return counts
}
