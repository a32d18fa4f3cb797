/**
 * What becomes of a post. `triage` is the rule; `ModerationResult` is what a run leaves under `moderation_result`
 * in its context, whichever way it went: machines read `verdict` and the fields of its kind, people read `summary`.
 */
import type { HateSpeechFinding, PiiKind } from './detectors.js'

type ModerationAction = 'action_ban' | 'action_redact' | 'action_delete_spam' | 'action_approve'

type UserId = string | number

type PiiCounts = Partial<Record<PiiKind, number>>

export type ModerationResult =
	| {
			verdict: 'banned'
			summary: string
			userId: UserId
			severity: HateSpeechFinding['severity']
			reasons: string[]
	  }
	| {
			verdict: 'redacted'
			summary: string
			userId: UserId
			redactedPost: string
			pii: PiiCounts
			warning: string
	  }
	| { verdict: 'spam_deleted'; summary: string; userId: UserId; reasons: string[] }
	/** `needsReview`: hate speech below the threshold of a ban; the post stays up, somebody should look at it. */
	| { verdict: 'approved'; summary: string; needsReview: boolean; reasons: string[] }

export type Verdict = ModerationResult['verdict']

interface Triage {
	readonly action: ModerationAction
	readonly because: string
}

/** The first rule that applies decides: severe hate speech, then personal data, then spam. */
export function triage(found: {
	severity: HateSpeechFinding['severity']
	pii: PiiCounts
	isSpam: boolean
}): Triage {
	if (found.severity === 'severe') return { action: 'action_ban', because: 'severe hate speech' }
	if (Object.keys(found.pii).length > 0)
		return { action: 'action_redact', because: `personal data: ${describeCounts(found.pii)}` }
	if (found.isSpam) return { action: 'action_delete_spam', because: 'spam' }
	return {
		action: 'action_approve',
		because: found.severity === 'none' ? 'nothing found' : `only ${found.severity} hate speech`,
	}
}

const KIND_NAMES: Readonly<Record<PiiKind, readonly [one: string, many: string]>> = {
	email: ['e-mail address', 'e-mail addresses'],
	phone: ['phone number', 'phone numbers'],
	card: ['card number', 'card numbers'],
	iban: ['IBAN', 'IBANs'],
	address: ['postal address', 'postal addresses'],
	other: ['other personal detail', 'other personal details'],
}

/** For people: "2 e-mail addresses and 1 phone number". */
export function describeCounts(counts: PiiCounts): string {
	const parts = Object.entries(counts).map(
		([kind, count]) => `${count} ${KIND_NAMES[kind as PiiKind][count === 1 ? 0 : 1]}`,
	)
	return parts.length < 2 ? parts.join('') : `${parts.slice(0, -1).join(', ')} and ${parts.at(-1)}`
}
