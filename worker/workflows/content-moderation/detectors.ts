/**
 * What the workflow asks about a post: three questions, each behind an interface. The built-in answers are
 * patterns and word lists (`localDetectors`); `llm/llm-detectors.ts` asks a language model instead.
 *
 * Findings never repeat the text they were found in: they are stored with the run.
 */
import { z } from 'zod'
import { createWordListHateSpeechClassifier } from './hate-speech.js'
import { createPatternPiiDetector } from './pii/pattern-pii-detector.js'
import { createScoredSpamClassifier } from './spam.js'

export const PII_KINDS = ['email', 'phone', 'card', 'iban', 'address', 'other'] as const
export type PiiKind = (typeof PII_KINDS)[number]

/** One piece of personal data: what it is, and where it stands in the post (UTF-16 offsets, `end` exclusive). */
export const piiFindingSchema = z.object({
	kind: z.enum(PII_KINDS),
	start: z.number().int().nonnegative(),
	end: z.number().int().positive(),
})
export type PiiFinding = z.infer<typeof piiFindingSchema>

const SEVERITIES = ['none', 'moderate', 'severe'] as const

/** `score` runs from 0 (harmless) to 1; `reasons` are for people. */
export const hateSpeechFindingSchema = z.object({
	severity: z.enum(SEVERITIES),
	score: z.number().min(0).max(1),
	reasons: z.array(z.string()),
})
export type HateSpeechFinding = z.infer<typeof hateSpeechFindingSchema>

/** `score` runs from 0 (harmless) to 1; `reasons` are for people. */
export const spamFindingSchema = z.object({
	isSpam: z.boolean(),
	score: z.number().min(0).max(1),
	reasons: z.array(z.string()),
})
export type SpamFinding = z.infer<typeof spamFindingSchema>

export interface PiiDetector {
	/** Personal data in `text`, in the order in which it appears, without overlaps. */
	detect(text: string, signal?: AbortSignal): Promise<PiiFinding[]>
}

export interface HateSpeechClassifier {
	classify(text: string, signal?: AbortSignal): Promise<HateSpeechFinding>
}

export interface SpamClassifier {
	classify(text: string, signal?: AbortSignal): Promise<SpamFinding>
}

export interface ModerationDetectors {
	readonly pii: PiiDetector
	readonly hateSpeech: HateSpeechClassifier
	readonly spam: SpamClassifier
}

/** The detectors that need no network and always give the same answer. Demo-grade: see the head of each. */
export function localDetectors(): ModerationDetectors {
	return {
		pii: createPatternPiiDetector(),
		hateSpeech: createWordListHateSpeechClassifier(),
		spam: createScoredSpamClassifier(),
	}
}
