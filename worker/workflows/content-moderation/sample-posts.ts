/** Posts with the verdict that the built-in detectors must reach: what the demo sends, and a test of the whole workflow. */
import type { Verdict } from './verdict.js'

export interface SamplePost {
	readonly id: string
	readonly userId: string
	readonly userPost: string
	readonly expected: Verdict
	/** What is left of a redacted post. */
	readonly redactedPost?: string
	/** An approved post that somebody should look at. */
	readonly needsReview?: true
}

/** Larger than what fits into a message or a log line, small enough for any host's request limit. */
const LONG_POST_PARAGRAPHS = 150
const LONG_POST = Array.from(
	{ length: LONG_POST_PARAGRAPHS },
	(_, day) =>
		`Day ${day + 1}. We walked ${(day * 7) % 23} kilometres along the coast, had lunch in a village whose name I forgot at once, ` +
		`and counted ${(day * 13) % 101} birds before the rain sent us home. The dog slept through all of it, as dogs on holiday do.`,
).join('\n\n')

export const samplePosts: readonly SamplePost[] = [
	post('friendly', 'Just finished my first marathon. Thank you all for the encouragement!', 'approved'),
	post('empty', '', 'approved'),
	post('very-long', LONG_POST, 'approved'),
	post(
		'one-link',
		'I wrote down how we migrated our database: https://blog.example.com/migration',
		'approved',
	),
	post('unicode', 'Grüße aus Zürich 🏔️ — 東京の桜も綺麗でした。Привет всем!', 'approved'),
	post(
		'order-number',
		'Where is my parcel? Order no. 212-555-0187 was due on 2024-05-17, and tracking 4155550132 shows nothing.',
		'approved',
	),
	post(
		'luhn-invalid',
		'The sample invoice shows 4111 1111 1111 1112 where the reference should be.',
		'approved',
	),
	post(
		'iban-wrong-check-digits',
		'Our form rejects DE88 3704 0044 0532 0130 00, as it should.',
		'approved',
	),
	post(
		'figure-of-speech',
		'I could kill for a coffee. My team is killing it today, and this demo will shoot to the top.',
		'approved',
	),
	post('capitals', 'GOOOOAL! WE WON THE CUP AFTER ALL THESE YEARS!', 'approved'),
	post('hostile', 'Go back to where you came from.', 'approved', { needsReview: true }),

	post('email', 'Mail me at jane.doe+forum@example.co.uk if you have a spare ticket.', 'redacted', {
		redactedPost: 'Mail me at [email] if you have a spare ticket.',
	}),
	post('us-phone', 'Ring (212) 555-0187 or 1-415-555-0132 after six.', 'redacted', {
		redactedPost: 'Ring [phone] or [phone] after six.',
	}),
	post('international-phone', 'London: +44 20 7946 0958, Berlin: +49 (0)30 901820.', 'redacted', {
		redactedPost: 'London: [phone], Berlin: [phone].',
	}),
	post('bare-phone', 'Lost cat! Please call 2125550187, she answers to Pixel.', 'redacted', {
		redactedPost: 'Lost cat! Please call [phone], she answers to Pixel.',
	}),
	post('card', 'Refund it to 4111 1111 1111 1111, valid until 12/27.', 'redacted', {
		redactedPost: 'Refund it to [card], valid until 12/27.',
	}),
	post('iban-with-spaces', 'Send my share to GB82 WEST 1234 5698 7654 32 please.', 'redacted', {
		redactedPost: 'Send my share to [iban] please.',
	}),
	post('fullwidth-email', 'Contact: ｊａｎｅ＠ｅｘａｍｐｌｅ．ｃｏｍ (or by pigeon)', 'redacted', {
		redactedPost: 'Contact: [email] (or by pigeon)',
	}),
	post(
		'pii-inside-spam',
		'BUY NOW!!! Cheap watches at http://bit.ly/w4tch, or mail sales@watches.example',
		'redacted',
		{
			redactedPost: 'BUY NOW!!! Cheap watches at http://bit.ly/w4tch, or mail [email]',
		},
	),

	post(
		'spam-prize',
		'CONGRATULATIONS!!! You have won. Click here to claim your prize: http://bit.ly/pr1ze',
		'spam_deleted',
	),
	post(
		'spam-leetspeak',
		'M4ke m0ney f@st! W0rk from home, guaranteed income, see www.easy-cash.example',
		'spam_deleted',
	),
	post(
		'spam-repetition',
		'Followers followers followers followers followers, cheap followers at follow-me.top',
		'spam_deleted',
	),

	post('severe-threat', 'I know where you live and I will kill you.', 'banned'),
	post('severe-dehumanising', 'Those people are vermin, and all foreigners should be wiped out.', 'banned'),
	post('severe-disguised', 'K1ll аll immіgrants', 'banned'),
	post(
		'severe-with-pii',
		'They are subhuman. We will murder them all. Join us: jane@example.com',
		'banned',
	),
]

function post(
	id: string,
	userPost: string,
	expected: Verdict,
	outcome: Pick<SamplePost, 'redactedPost' | 'needsReview'> = {},
): SamplePost {
	return { id, userId: `sample-${id}`, userPost, expected, ...outcome }
}
