"""What the notebooks need as a course: pictures of the ideas and checks of the exercises."""
