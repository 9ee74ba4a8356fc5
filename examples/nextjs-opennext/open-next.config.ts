// How OpenNext packs the app. There is no S3, DynamoDB or SQS here, so every cache is a dummy one:
// pages are rendered when they are asked for, and nothing is revalidated in the background.
export default {
  default: {
    override: {
      wrapper: "aws-lambda-streaming",
      converter: "aws-apigw-v2",
      incrementalCache: "dummy",
      tagCache: "dummy",
      queue: "dummy",
    },
    minify: true,
  },
  buildCommand: "npx next build",
};
