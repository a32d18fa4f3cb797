/**
 * The implementations behind the `uses` keys of the blueprints. They run in process and distributed alike: they
 * read `input`, write `context` (buffered until the node's commit) and keep no state, so running one again changes
 * nothing.
 *
 * The nodes that act on the outside (ban, delete, warn) only return a record of what they would do. Put your own
 * calls there, and hand on `dependencies.idempotencyKey`: it stays the same over the attempts of a node.
 */
import type { IAsyncContext, NodeRegistry, NodeResult } from 'flowcraft'
import { z } from 'zod'
import {
	hateSpeechFindingSchema,
	PII_KINDS,
	piiFindingSchema,
	spamFindingSchema,
	type ModerationDetectors,
} from './detectors.js'
import { parseInput } from '../parse-input.js'
import { userIdSchema, userPostSchema } from './node-input.js'
import { countByKind, redact } from './pii/redact.js'
import { describeCounts, triage, type ModerationResult } from './verdict.js'

const piiCountsSchema = z.partialRecord(z.enum(PII_KINDS), z.number())
const piiCheckSchema = z.object({ counts: piiCountsSchema, findings: z.array(piiFindingSchema) })

export function createModerationNodes(detectors: ModerationDetectors): NodeRegistry {
	return {
		...checkNodes(detectors),
		...outcomeNodes(),
		...banNodes(),
		...redactionNodes(detectors),
		...spamNodes(),
	}
}

function checkNodes(detectors: ModerationDetectors): NodeRegistry {
	return {
		'moderation.check-for-pii': async ({ input, signal }) => {
			const findings = await detectors.pii.detect(parseInput('userPost', userPostSchema, input), signal)
			return { output: { counts: countByKind(findings), findings } }
		},

		'moderation.check-for-hate-speech': async ({ input, signal }) => ({
			output: await detectors.hateSpeech.classify(
				parseInput('userPost', userPostSchema, input),
				signal,
			),
		}),

		'moderation.check-for-spam': async ({ input, signal }) => ({
			output: await detectors.spam.classify(parseInput('userPost', userPostSchema, input), signal),
		}),

		'moderation.triage': async ({ input }) => {
			const schema = z.object({
				pii: piiCheckSchema,
				hateSpeech: hateSpeechFindingSchema,
				spam: spamFindingSchema,
			})
			const { pii, hateSpeech, spam } = parseInput('triage', schema, input)
			const decision = triage({ severity: hateSpeech.severity, pii: pii.counts, isSpam: spam.isSpam })
			return { output: decision, action: decision.action }
		},
	}
}

function outcomeNodes(): NodeRegistry {
	return {
		'moderation.approve-post': async ({ context, input }) => {
			const { hateSpeech } = parseInput(
				'approval',
				z.object({ hateSpeech: hateSpeechFindingSchema }),
				input,
			)
			const needsReview = hateSpeech.severity !== 'none'
			const summary = needsReview
				? `Post approved, marked for review: ${hateSpeech.reasons.join(', ')}.`
				: 'Post approved.'
			return finish(context, 'moderation_result', {
				verdict: 'approved',
				summary,
				needsReview,
				reasons: hateSpeech.reasons,
			})
		},

		'moderation.final-log': async ({ input }) => {
			const schema = z.object({ result: z.object({ verdict: z.string(), summary: z.string() }) })
			const { verdict, summary } = parseInput('final_log', schema, input).result
			return { output: `Content moderation complete: ${verdict}. ${summary}` }
		},
	}
}

function banNodes(): NodeRegistry {
	return {
		'moderation.ban-user': async ({ input }) => ({
			output: { action: 'ban_user', ...parseInput('ban', z.object({ userId: userIdSchema }), input) },
		}),

		'moderation.log-ban': async ({ input }) => {
			const schema = z.object({ userId: userIdSchema, hateSpeech: hateSpeechFindingSchema })
			const { userId, hateSpeech } = parseInput('ban', schema, input)
			return {
				output: {
					event: 'user_banned',
					userId,
					severity: hateSpeech.severity,
					reasons: hateSpeech.reasons,
				},
			}
		},

		'moderation.summarise-ban': async ({ context, input }) => {
			const event = z.object({
				severity: hateSpeechFindingSchema.shape.severity,
				reasons: z.array(z.string()),
			})
			const schema = z.object({ ban: z.object({ userId: userIdSchema }), event })
			const { ban, event: why } = parseInput('ban', schema, input)
			const summary = `User ${ban.userId} banned for ${why.severity} hate speech${why.reasons.length > 0 ? `: ${why.reasons.join(', ')}` : ''}.`
			return finish(context, 'ban_summary', {
				verdict: 'banned',
				summary,
				userId: ban.userId,
				severity: why.severity,
				reasons: why.reasons,
			})
		},
	}
}

function redactionNodes(detectors: ModerationDetectors): NodeRegistry {
	return {
		// Started on its own, the subflow is given a post without findings, and looks for itself.
		'moderation.redact-pii': async ({ input, signal }) => {
			const schema = z.object({ userPost: userPostSchema, pii: piiCheckSchema.nullish() })
			const { userPost, pii } = parseInput('redaction', schema, input)
			const findings = pii?.findings ?? (await detectors.pii.detect(userPost, signal))
			return { output: { redactedPost: redact(userPost, findings), counts: countByKind(findings) } }
		},

		'moderation.warn-about-pii': async ({ input }) => {
			const { userId } = parseInput('warning', z.object({ userId: userIdSchema }), input)
			const message =
				'We removed personal data from your post. Please do not publish contact or payment details, yours or those of others.'
			return { output: { action: 'warn_user', userId, message } }
		},

		'moderation.summarise-redaction': async ({ context, input }) => {
			const redaction = z.object({ redactedPost: z.string(), counts: piiCountsSchema })
			const schema = z.object({
				redaction,
				warning: z.object({ userId: userIdSchema, message: z.string() }),
			})
			const { redaction: done, warning } = parseInput('redaction', schema, input)
			const summary = `Post of user ${warning.userId} redacted (${describeCounts(done.counts)}), user warned.`
			return finish(context, 'redaction_summary', {
				verdict: 'redacted',
				summary,
				userId: warning.userId,
				redactedPost: done.redactedPost,
				pii: done.counts,
				warning: warning.message,
			})
		},
	}
}

function spamNodes(): NodeRegistry {
	return {
		'moderation.delete-and-flag': async ({ input }) => {
			const schema = z.object({ userId: userIdSchema, spam: spamFindingSchema.nullish() })
			const { userId, spam } = parseInput('deletion', schema, input)
			return { output: { action: 'delete_post_and_flag_user', userId, reasons: spam?.reasons ?? [] } }
		},

		'moderation.summarise-spam-deletion': async ({ context, input }) => {
			const schema = z.object({
				deletion: z.object({ userId: userIdSchema, reasons: z.array(z.string()) }),
			})
			const { userId, reasons } = parseInput('deletion', schema, input).deletion
			const summary = `Post of user ${userId} deleted as spam${reasons.length > 0 ? ` (${reasons.join('; ')})` : ''}, user flagged.`
			return finish(context, 'spam_deletion_summary', {
				verdict: 'spam_deleted',
				summary,
				userId,
				reasons,
			})
		},
	}
}

/** Leaves the result under `key` in the context, and as the node's output too. */
async function finish(
	context: IAsyncContext,
	key: string,
	result: ModerationResult,
): Promise<NodeResult<ModerationResult>> {
	await context.set(key, result)
	return { output: result }
}
