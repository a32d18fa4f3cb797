/** The example as a whole, in Flowcraft's own in-process runtime: the reference for the distributed engine. */
import { FlowRuntime, type WorkflowResult } from 'flowcraft'
import { describe, expect, it } from 'vitest'
import { assembleContentModeration } from '../../../worker/workflows/content-moderation/content-moderation.js'
import {
	localDetectors,
	type ModerationDetectors,
} from '../../../worker/workflows/content-moderation/detectors.js'
import { samplePosts } from '../../../worker/workflows/content-moderation/sample-posts.js'

describe('content moderation', () => {
	it.each(samplePosts)(
		'finds $expected for the sample $id',
		async ({ userId, userPost, expected, redactedPost, needsReview }) => {
			const result = await moderate({ userId, userPost })

			expect(result.status).toBe('completed')
			const moderationResult: unknown = result.context.moderation_result
			expect(moderationResult).toMatchObject({
				verdict: expected,
				summary: expect.stringMatching(/\.$/),
				...(expected !== 'approved' && { userId }),
				...(expected === 'redacted' && { redactedPost }),
				...(expected === 'approved' && { needsReview: needsReview ?? false }),
			})
			expect(result.context['_outputs.final_log']).toContain(`complete: ${expected}`)
		},
	)

	it('covers every verdict in its samples', () => {
		expect(new Set(samplePosts.map(({ expected }) => expected))).toEqual(
			new Set(['banned', 'redacted', 'spam_deleted', 'approved']),
		)
	})

	it('gives each sample an id of its own', () => {
		expect(new Set(samplePosts.map(({ id }) => id)).size).toBe(samplePosts.length)
	})

	it('gives the same result when it runs again', async () => {
		const input = { userId: 7, userPost: 'Mail me at jane@example.com' }
		const [first, second] = [await moderate(input), await moderate(input)]
		expect(first.context.moderation_result).toEqual(second.context.moderation_result)
	})

	it('takes exactly one branch', async () => {
		const { context } = await moderate({ userId: 7, userPost: 'Mail me at jane@example.com' })
		const branches = Object.keys(context).filter((key) => /^_outputs\..*_branch$/.test(key))
		expect(branches).toEqual(['_outputs.redact_post_branch'])
	})

	it('stores where personal data stands, never the data itself, with the check', async () => {
		const { context } = await moderate({ userId: 7, userPost: 'Mail me at jane@example.com' })
		expect(context['_outputs.check_for_pii']).toEqual({
			counts: { email: 1 },
			findings: [{ kind: 'email', start: 11, end: 27 }],
		})
	})

	it('redacts what the check found, without asking a second time', async () => {
		let asked = 0
		const local = localDetectors()
		const pii: ModerationDetectors['pii'] = {
			detect: async (text) => {
				asked += 1
				return local.pii.detect(text)
			},
		}
		const result = await moderate(
			{ userId: 7, userPost: 'Mail me at jane@example.com' },
			{ ...local, pii },
		)
		expect(result.context.moderation_result).toMatchObject({ redactedPost: 'Mail me at [email]' })
		expect(asked).toBe(1)
	})

	it('fails at once, naming the input, when the post is not a string', async () => {
		const result = await moderate({ userId: 7, userPost: 42 })
		expect(result.status).toBe('failed')
		expect(result.errors?.map(({ message }) => message)).toContain(
			'userPost: must be a string (it may be empty)',
		)
	})

	it('approves a post without a user, and refuses to act on nobody', async () => {
		expect((await moderate({ userPost: 'hello' })).status).toBe('completed')
		const result = await moderate({ userPost: 'I will kill you' })
		expect(result.status).toBe('failed')
		expect(result.context).not.toHaveProperty('moderation_result')
	})
})

describe('the redaction subflow', () => {
	it('looks for personal data itself when it is started on its own', async () => {
		const { blueprints: own, registry: nodes } = assembleContentModeration(localDetectors())
		const blueprint = own['moderation-redact-post']
		if (!blueprint) throw new Error('the blueprint is missing')
		const result = await new FlowRuntime({ blueprints: own, registry: nodes }).run(blueprint, {
			userId: 7,
			userPost: 'a@example.com',
		})
		expect(result.context['redaction_summary']).toMatchObject({
			verdict: 'redacted',
			redactedPost: '[email]',
			pii: { email: 1 },
		})
	})
})

interface ModerationContext {
	userId?: string | number
	userPost?: unknown
	[key: string]: unknown
}

async function moderate(
	input: ModerationContext,
	detectors = localDetectors(),
): Promise<WorkflowResult<ModerationContext>> {
	const { blueprints: own, registry: nodes } = assembleContentModeration(detectors)
	const blueprint = own['content-moderation']
	if (!blueprint) throw new Error('the blueprint is missing')
	return new FlowRuntime<ModerationContext, Record<string, never>>({
		blueprints: own,
		registry: nodes,
	}).run(blueprint, input)
}
